class OnDelivery(exports.OnDelivery):
    def on_delivery(self, session, message, outcome) -> int | None:
        # May name the seconds until the next attempt after a temporary failure. None leaves the schedule.
        return None
