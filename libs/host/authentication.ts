/** Who a caller is: clients by their keys, nodes by the mesh's secret. */
import { createHash, timingSafeEqual } from "node:crypto";
import { RpcError } from "../rpc/index.ts";

/** The tenant of everybody while no client keys are configured. */
const TENANT_WITHOUT_KEYS = "default";

/**
 * Decides by the `Authorization` header. Keys are compared by their digests, so that how long it takes tells nothing.
 * Returns the tenant, or throws UNAUTHENTICATED with a message that quotes nothing of the key.
 */
export function createAuthenticator(
  clients: readonly { readonly key: string; readonly tenant: string }[],
): (authorization: string) => string {
  if (clients.length === 0) return () => TENANT_WITHOUT_KEYS;
  const tenants = new Map(clients.map(({ key, tenant }) => [digest(key), tenant]));
  return (authorization) => {
    const key = /^Bearer\s+(\S+)$/i.exec(authorization)?.[1];
    if (key === undefined) {
      throw new RpcError("UNAUTHENTICATED", "no client key was sent; send the header Authorization: Bearer KEY");
    }
    const tenant = tenants.get(digest(key));
    if (tenant === undefined) throw new RpcError("UNAUTHENTICATED", "the client key in Authorization is not known");
    return tenant;
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
