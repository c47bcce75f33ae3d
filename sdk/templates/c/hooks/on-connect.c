void exports_on_connect_on_connect(types_borrow_session_t session, types_answer_t *ret) {
    gatepost_begin();
    // May reject, defer, disconnect, accept or delay. The client waits for the banner.
    *ret = gatepost_pass();
}
