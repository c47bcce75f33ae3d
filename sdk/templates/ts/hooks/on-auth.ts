export const onAuth: typeof import("gatepost:policy/on-auth@0.1.0") = {
  onAuth(session, attempt) {
    // May vouch for an identity (grant `authenticate`), refuse or defer. Passing leaves it to the users file.
    return { tag: "pass" };
  },
};
