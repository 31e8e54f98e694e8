/** The directory (who serves what, where, how loaded) and events, over NATS. The only room of Cortex that knows NATS. */
export { type Clients, type ClientsOptions, createClients } from "./clients.ts";
export { type Clock, type Directory, providerOf, systemClock } from "./directory.ts";
export {
  type EventLog,
  type Following,
  type FollowOptions,
  LOG_AGE_MS,
  type LoggedEvent,
  type LogPosition,
  type LogReader,
} from "./event-log.ts";
export type { Events, MessageType } from "./events.ts";
export { type JoinOptions, joinMesh, type Mesh, type NodeDescription } from "./mesh.ts";
export type { Snapshot, SnapshotStore } from "./snapshots.ts";
