void exports_on_route_on_route(types_borrow_session_t session, queue_queued_message_t *message, types_answer_t *ret) {
    gatepost_begin();
    // May route, choose source address and TLS, hold (quarantine), defer, fail (reject) or discard.
    *ret = gatepost_pass();
}
