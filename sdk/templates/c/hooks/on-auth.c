void exports_on_auth_on_auth(types_borrow_session_t session, login_borrow_attempt_t attempt, exports_on_auth_verdict_t *ret) {
    gatepost_begin();
    // May vouch for an identity (grant `authenticate`), refuse or defer. Passing leaves it to the users file.
    *ret = (exports_on_auth_verdict_t){ .tag = EXPORTS_ON_AUTH_VERDICT_PASS };
}
