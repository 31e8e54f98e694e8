/** How the tests run: `npm test`. The last line that it prints is `N passed, N failed`, for whoever counts. */
import { defineConfig } from "vitest/config";
import type { Reporter, TestModule } from "vitest/node";

const summary: Reporter = {
  onTestRunEnd(modules: readonly TestModule[], unhandled: readonly unknown[]) {
    let passed = 0;
    let failed = unhandled.length;
    let skipped = 0;
    for (const module of modules) {
      if (module.children.size === 0 && module.state() === "failed") failed++;
      for (const test of module.children.allTests()) {
        const { state } = test.result();
        if (state === "passed") passed++;
        else if (state === "failed") failed++;
        else skipped++;
      }
    }
    process.on("exit", () => {
      process.stdout.write(`${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ""}\n`);
    });
  },
};

export default defineConfig({
  root: new URL("..", import.meta.url).pathname,
  test: {
    include: ["libs/**/*.test.ts", "services/**/*.test.ts", "test/**/*.test.ts"],
    // Tests start real processes and servers; on two cores they need more than vitest's 5 s, and a hang must still end.
    testTimeout: 60_000,
    hookTimeout: 60_000,
    // A condition that comes late on a busy machine has come all the same.
    expect: { poll: { timeout: 15_000 } },
    setupFiles: ["test/patience.ts"],
    pool: "forks",
    reporters: ["default", summary],
  },
});
