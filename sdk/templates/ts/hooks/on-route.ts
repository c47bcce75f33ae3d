export const onRoute: typeof import("gatepost:policy/on-route@0.1.0") = {
  onRoute(session, message) {
    // May route, choose source address and TLS, hold (quarantine), defer, fail (reject) or discard.
    return pass();
  },
};
