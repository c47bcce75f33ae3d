export const onMessage: typeof import("gatepost:policy/on-message@0.1.0") = {
  onMessage(session, message) {
    // May reject, defer, discard, accept, edit, quarantine, route, sign or tag. Looking into the message needs the grant `read-message`.
    return pass();
  },
};
