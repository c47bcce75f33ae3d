void exports_on_disconnect_on_disconnect(types_borrow_session_t session) {
    gatepost_begin();
    // Observes: nothing can be answered. Session notes are there for the last time.
}
