/** All scenarios, in the order in which they are shown. */
import { DEPARTURE_SCENARIOS } from "./departures.ts";
import { FAILURE_SCENARIOS } from "./failures.ts";
import { HARD_END_SCENARIOS } from "./hard-ends.ts";
import { OUTAGE_SCENARIOS } from "./outages.ts";
import { GROUPS, type Scenario } from "./scenario.ts";

const ORDER = Object.keys(GROUPS);

export const SCENARIOS: readonly Scenario[] = [
  ...FAILURE_SCENARIOS,
  ...HARD_END_SCENARIOS,
  ...OUTAGE_SCENARIOS,
  ...DEPARTURE_SCENARIOS,
].sort((one, other) => ORDER.indexOf(one.group) - ORDER.indexOf(other.group));
