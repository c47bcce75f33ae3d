bool exports_on_delivery_on_delivery(types_borrow_session_t session, queue_queued_message_t *message,
                                     queue_attempt_result_t *outcome, uint32_t *ret) {
    gatepost_begin();
    // May name the seconds until the next attempt after a temporary failure: *ret = 600; return true. False leaves the schedule.
    return false;
}
