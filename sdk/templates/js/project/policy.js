// A policy for Gatepost. What each hook sees and may answer stands in build/wit/deps/gatepost-policy, which the first build leaves there.
// It takes no [plugin.config]. One that does exports `lifecycle` too: see wit/world.wit.

const pass = () => ({ decision: { tag: "pass" }, actions: [] });

{{hooks}}
