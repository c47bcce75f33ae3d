export const onRoute = {
  onRoute(session, message) {
    // May route, choose source address and TLS, hold (quarantine), defer, fail (reject) or discard.
    return pass();
  },
};
