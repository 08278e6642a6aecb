"""
Partitions of an ordered consumer: its lanes are spread over queues that processes share.

    main exchange ──patterns──▶ <queue>.g1 ──a lane──▶ <queue>.g1.lanes ──hash──▶ <queue>.g1.0 …
                                      └──────no lane─▶ <queue>.g1.others ─hash──▶ <queue>.g1.0 …

    balance        which process reads which partitions, and how: pure
    assignment      the partitions of this process, looked at every second
    subscription    their deliveries as one subscription; drain markers and forwarding
    readers         the subscription of each partition
    source          one such subscription after another
    repair          declares them again from time to time
    hash_type       whether the broker has the plugin that hashes
    scaling         from one number of partitions to another
    dead_lettering  whether the broker still dead-letters messages of an older one

**Generations.** A number of partitions is a generation. Generation 0 is the work queue, as an
ordered consumer without partitions has it. Another number is another generation, with exchanges
and queues of its own: no queue is ever added to a hash, and no lane changes its queue.

**From one generation to the next** (`scaling`), and the state if a process ends there:

| step                                          | a crash behind it leaves                       |
|-----------------------------------------------|------------------------------------------------|
| 1. record the next generation as declared     | a row; no message is routed differently        |
| 2. declare its queues, bind its exchange      | messages in both generations: the older one    |
|                                               | handles them, the copies wait; dedup drops     |
|                                               | them when they are read                        |
| 3. wait a second, then record: older one      | drain markers are published by the processes   |
|    draining, next one current                 |                                                |
| 4. each partition of the older one comes to   | the next process publishes another marker; the |
|    its marker, which is recorded              | first one that is consumed counts              |
| 5. all are recorded: the messages of the next | the older one gets copies still, and forwards  |
|    one are handled                            | them; dedup drops them                         |
| 6. the older one is unbound                   | as before, without copies                      |
| 7. the older one retires: it is read no more, | a generation that is retired, and deleted by   |
|    then its exchanges and queues are deleted  | the next run                                   |

Steps 2 and 3 are one transaction, which has both generations locked and changes their states only
at its end, and every act on the broker may be repeated: the next run begins with step 2.
`consumer scale` does all steps, and a process of the consumer does 1 to 3, and 6, when it starts,
or within 15 seconds, if they are undone.

**Order of a lane.** Each message of a lane that comes before the marker is in its older partition,
in its order, because the older one stays bound. Each message behind the marker is in the next
generation, in its order, because that was bound a second before. Messages in between are in both.
The next generation is handled only when all older partitions have come to their markers, so each
message before them is settled: completed, parked or dead-lettered. Parked messages are rows of the
consumer, whatever the generation, and later messages of the lane are parked behind them.

A message behind the marker of an older partition is not handled there, but forwarded, as a copy at
the end of the next generation, where dedup drops it. So bindings need not change all at once: one
after another, messages of a lane with different routing keys could overtake each other, if those
of the older generation were handled meanwhile.

**Retries, requeues and replays** return to the work queue, whatever the generation. Once that is
drained, its reader forwards each message to the current generation, which finds its partition.

**A process ends** or is cut off: others see that its row in `consumer_members` is old, claim its
partitions and subscribe. The broker's single active consumer keeps two processes from reading one
partition; what it cannot keep from, a handler that goes on without its connection, is what an
ordered consumer without partitions has too (see `consumer.storage.parked`).
"""
