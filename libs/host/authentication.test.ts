/** Who is let in, as whom, and what those hear who are not. */
import { describe, expect, it } from "vitest";
import { RpcError } from "../rpc/index.ts";
import { createAuthenticator, sameSecret } from "./authentication.ts";

function refusalOf(read: () => unknown): RpcError {
  try {
    read();
  } catch (error) {
    expect(error).toBeInstanceOf(RpcError);
    expect((error as RpcError).reason).toBe("UNAUTHENTICATED");
    return error as RpcError;
  }
  throw new Error("nobody was refused");
}

describe("client keys", () => {
  const authenticate = createAuthenticator([
    { key: "key-of-a", tenant: "team-a", admin: false },
    { key: "key-of-b", tenant: "team-b", admin: true },
    { key: "other-key-of-a", tenant: "team-a", admin: false },
  ]);

  it("tell whose they are, and whether an administrator's", () => {
    expect(authenticate("Bearer key-of-a")).toEqual({ tenant: "team-a", admin: false });
    expect(authenticate("Bearer key-of-b")).toEqual({ tenant: "team-b", admin: true });
    expect(authenticate("bearer  other-key-of-a")).toEqual({ tenant: "team-a", admin: false });
  });

  it.each(["", "Bearer", "Bearer ", "key-of-a", "Basic key-of-a", "Bearer key-of-a key-of-b", "Bearer\u00a0"])(
    "are asked for when %j comes instead",
    (authorization) => {
      expect(refusalOf(() => authenticate(authorization)).message).toContain("Authorization: Bearer KEY");
    },
  );

  it.each(["wrong", "KEY-OF-A", "key-of-", "key-of-aa", "team-a", "__proto__", "key-of-a,key-of-b"])(
    "are refused when unknown, as %j is, and not quoted",
    (key) => {
      const { message } = refusalOf(() => authenticate(`Bearer ${key}`));
      expect(message).toContain("not known");
      expect(message).not.toContain(key);
    },
  );

  it("are not asked for when there are none: everybody is the same tenant, and an administrator", () => {
    const open = createAuthenticator([]);
    for (const sent of ["", "Bearer anything", "nonsense"]) {
      expect(open(sent)).toEqual({ tenant: "default", admin: true });
    }
  });
});

describe("two secrets", () => {
  it("are the same only when every byte is", () => {
    expect(sameSecret("s3cret", "s3cret")).toBe(true);
    expect(sameSecret("", "")).toBe(true);
    for (const other of ["s3cres", "s3cre", "s3crett", "S3cret", "", "ś3cret"]) {
      expect(sameSecret("s3cret", other)).toBe(false);
    }
    // As many characters, but not as many bytes.
    expect(sameSecret("é", "e")).toBe(false);
  });
});
