"""
FHIR R5: transaction bundles of several hundred kilobytes, and notifications of a subscription.

    relay migrate && python -m examples.fhir.tables   # in a database of your own
    relay run &                       # or in three further terminals
    consumer run examples.fhir.handlers:store &
    consumer run examples.fhir.handlers:subscriber &
    python -m examples.fhir.intake              # record a synthetic bundle of 600 observations

    bundles        the bytes of a bundle, checked with fhir.resources
    intake         records a bundle that was received
    handlers       observations become rows; a subscriber gets the high ones
    subscription   a notification, and the numbers of its events
    tables         observations, subscriptions, and what the subscriber has
    synthetic      bundles for trying it

fhir.resources 8.3 reads and checks any resource, and `Message[Bundle]` works: the subscriber here
has such a handler. It was not good enough for the transaction, for three reasons:

- It writes a decimal as a float: 6.30 becomes 6.3, and FHIR says that the digits are a part of the
  value. It writes the `integer64` of R5 as a number, and FHIR wants a string. So the body of each
  event here is the JSON as it was received or made, and the library only checks it.
- `Message[Bundle]` reads a float, too. The handler of transactions takes `Message[bytes]`, and
  reads numbers as `Decimal`.
- It takes half a millisecond for a resource, so a large bundle takes a third of a second. The code
  here does that in a thread, so that heartbeats and other messages go on.
"""
