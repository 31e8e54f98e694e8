import { describe, expect, it } from "vitest";
import { parseNatsUrl } from "./connection.ts";

describe("a NATS URL", () => {
  it("may be as short as a host", () => {
    expect(parseNatsUrl("nats")).toEqual({ servers: ["nats:4222"], shown: "nats://nats:4222" });
    expect(parseNatsUrl("nats://127.0.0.1:4333")).toMatchObject({ servers: ["127.0.0.1:4333"] });
    expect(parseNatsUrl("nats://[::1]:4333")).toMatchObject({ servers: ["[::1]:4333"] });
  });

  it("may name several servers and ask for TLS", () => {
    expect(parseNatsUrl("tls://a:1, tls://b")).toEqual({
      servers: ["a:1", "b:4222"],
      tls: {},
      shown: "tls://a:1,tls://b:4222",
    });
  });

  it("may carry a user and password, or a token, which are never shown", () => {
    const withPassword = parseNatsUrl("nats://me:p%40ss@host");
    expect(withPassword).toMatchObject({ user: "me", pass: "p@ss", servers: ["host:4222"] });
    expect(withPassword.shown).toBe("nats://host:4222");
    expect(parseNatsUrl("nats://secret@host")).toMatchObject({ token: "secret", shown: "nats://host:4222" });
  });

  it("is refused without being repeated when it makes no sense", () => {
    expect(() => parseNatsUrl("")).toThrow(/empty/);
    expect(() => parseNatsUrl("nats://me:hidden@:x y")).toThrow(/not valid/);
    expect(() => parseNatsUrl("nats://me:hidden@:x y")).not.toThrow(/hidden/);
  });
});
