export const onAuth = {
  onAuth(session, attempt) {
    // May vouch for an identity (grant `authenticate`), refuse or defer. Passing leaves it to the users file.
    return { tag: "pass" };
  },
};
