/**
 * Preloaded into Portkey's gateway: the one line by which its repository patches async-retry, so that it can wait as long as a
 * retry-after header says. The package that npm installs is built against that patch and comes without it
 * (https://github.com/Portkey-AI/gateway/tree/main/patches).
 */
import { registerHooks } from "node:module";

registerHooks({
  load: (url, context, next) => {
    const loaded = next(url, context);
    if (!url.endsWith("/async-retry/lib/index.js")) return loaded;
    return { ...loaded, source: String(loaded.source).replace("fn(bail, num)", "fn(bail, num, op)") };
  },
});
