class OnData(exports.OnData):
    def on_data(self, session) -> Answer:
        # May reject, defer, disconnect, accept or tag. Refusing here spares the transfer.
        return passed()
