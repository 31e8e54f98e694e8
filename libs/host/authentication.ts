/** Who a caller is: clients by their keys, nodes by the mesh's secret. */
import { createHash, timingSafeEqual } from "node:crypto";
import { RpcError } from "../rpc/index.ts";

/** Who a client is. */
export interface Identity {
  /** Whom its key belongs to. */
  readonly tenant: string;
  /** It may change the mesh. */
  readonly admin: boolean;
}

/** Everybody, while no client keys are configured: a mesh that nobody has closed listens to its own machine alone. */
const EVERYBODY: Identity = { tenant: "default", admin: true };

/**
 * Decides by the `Authorization` header. Keys are compared by their digests, so that how long it takes tells nothing.
 * Returns who it is, or throws UNAUTHENTICATED with a message that quotes nothing of the key.
 */
export function createAuthenticator(
  clients: readonly ({ readonly key: string } & Identity)[],
): (authorization: string) => Identity {
  if (clients.length === 0) return () => EVERYBODY;
  const identities = new Map<string, Identity>(
    clients.map(({ key, tenant, admin }) => [digest(key), { tenant, admin }]),
  );
  return (authorization) => {
    const key = /^Bearer\s+(\S+)$/i.exec(authorization)?.[1];
    if (key === undefined) {
      throw new RpcError("UNAUTHENTICATED", "no client key was sent; send the header Authorization: Bearer KEY");
    }
    const identity = identities.get(digest(key));
    if (identity === undefined) throw new RpcError("UNAUTHENTICATED", "the client key in Authorization is not known");
    return identity;
  };
}

/** Whether two secrets are the same, in a time that does not depend on where they differ. Cheap: nodes ask at each call. */
export function sameSecret(a: string, b: string): boolean {
  const [left, right] = [Buffer.from(a), Buffer.from(b)];
  return left.length === right.length && timingSafeEqual(left, right);
}

function digest(secret: string): string {
  return createHash("sha256").update(secret).digest("base64");
}
