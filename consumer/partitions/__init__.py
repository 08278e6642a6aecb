"""
Partitions of an ordered consumer: its lanes are spread over queues that processes share.

    main exchange ──patterns──▶ <queue>.g1 ──a lane──▶ <queue>.g1.lanes ──hash──▶ <queue>.g1.0 …
                                      └──────no lane─▶ <queue>.g1.others ─hash──▶ <queue>.g1.0 …

    balance        which process reads which partitions, and how: pure
    assignment     the partitions of this process, looked at every second
    subscription   their deliveries as one subscription; drain markers and forwarding
    readers        the subscription of each partition
    source         one such subscription after another
    repair         declares them again from time to time
    hash_type      whether the broker has the plugin that hashes
    scaling        from one number of partitions to another

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
| 3. wait a second, then unbind the older one   | messages in the next generation only, where    |
|                                               | they wait; the older one works on              |
| 4. record: older one draining, next one       | drain markers are published by the processes   |
|    current                                    |                                                |
| 5. each partition of the older one comes to   | the next process publishes another marker; the |
|    its marker, which is recorded              | first one that is consumed counts              |
| 6. all are recorded: the next one is read     | as before                                      |
| 7. the older one retires: it is read no more, | a generation that is retired, and deleted by   |
|    then its exchanges and queues are deleted  | the next run                                   |

Steps 2 to 4 are one transaction, which changes the state only at its end. So whoever repeats them
begins with step 2, and every act on the broker may be repeated. `consumer scale` does all steps,
and a process of the consumer does 1 to 4 when it starts, or within 15 seconds, if they are undone.

**Order of a lane.** Before step 3 each message of a lane is in its older partition, in its order.
A message that is published later is in the next generation, and one in between in both. The next
generation is read only when all older partitions have come to their markers, so each message of
the older one is settled: completed, parked or dead-lettered. Parked messages are rows of the
consumer, whatever the generation, and later messages of the lane are parked behind them.

A message may reach an older partition behind its marker, because the broker had routed it before.
It is in the next generation as well, at its place, since that was bound a second before. It is not
handled but forwarded, as a copy at the end of the next generation, and dedup drops it there.

**Retries, requeues and replays** return to the work queue, whatever the generation. Once that is
drained, its reader forwards each message to the current generation, which finds its partition.

**A process ends** or is cut off: others see that its row in `consumer_members` is old, claim its
partitions and subscribe. The broker's single active consumer keeps two processes from reading one
partition; what it cannot keep from, a handler that goes on without its connection, is what an
ordered consumer without partitions has too (see `consumer.storage.parked`).
"""
