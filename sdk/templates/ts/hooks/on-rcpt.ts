export const onRcpt: typeof import("gatepost:policy/on-rcpt@0.1.0") = {
  onRcpt(session, recipient, relay) {
    // May reject, defer, discard, accept, allow relaying, rewrite or add recipients, route, delay or tag:
    // { decision: { tag: "reject", val: { code: 550, enhanced: "5.1.1", text: "No such user" } }, actions: [] }
    return pass();
  },
};
