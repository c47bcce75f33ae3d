void exports_on_queued_on_queued(types_borrow_session_t session, queue_queued_message_t *message) {
    gatepost_begin();
    // Observes: nothing can be answered. The message is durable.
}
