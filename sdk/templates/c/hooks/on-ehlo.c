void exports_on_ehlo_on_ehlo(types_borrow_session_t session, gatepost_string_t *name, types_answer_t *ret) {
    gatepost_begin();
    // May reject, defer, disconnect, accept, delay, or withdraw an extension.
    *ret = gatepost_pass();
}
