// A policy for Gatepost. What each hook sees and may answer stands in build/types, which the first build leaves there.
// It takes no [plugin.config]. One that does exports `lifecycle` too: see wit/world.wit.

import type { Answer } from "gatepost:policy/types@0.1.0";

const pass = (): Answer => ({ decision: { tag: "pass" }, actions: [] });

{{hooks}}
