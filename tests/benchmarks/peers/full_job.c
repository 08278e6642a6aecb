/*
 * The relay's whole job in C, and the publishing alone.
 *
 *     full_job relay             claim, publish, wait for the confirms, delete; without an end
 *     full_job publish COUNT     publish prepared messages only, and print how long it took
 *
 * DATABASE and BROKER_HOST, BROKER_PORT, BROKER_USER, BROKER_PASSWORD, BROKER_VHOST say where,
 * EXCHANGE what the messages go through.
 *
 * Two connections take turns: while the broker works on the batch of one, the other one deletes
 * and claims. Each does both in one round trip of libpq's pipeline mode, so the commit of a batch
 * overlaps with the publishing of the next. Two batches of 500 make a window of 1,000.
 * Rows are locked against other relays (SKIP LOCKED); messages are persistent, mandatory and
 * confirmed. A returned message, a nack or an error ends the program.
 */
#include <arpa/inet.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include <libpq-fe.h>
#include <amqp.h>
#include <amqp_tcp_socket.h>

enum { BATCH = 500, SLOTS = 2, WINDOW = BATCH * SLOTS, BODY_BYTES = 1024, IDLE_MICROSECONDS = 10000 };
enum { ID, EVENT_ID, TYPE, ROUTING_KEY, CONTENT_TYPE, BODY };

typedef struct {
  PGconn *database;
  int rows;            /* published, and not yet all confirmed and deleted */
  uint64_t last_tag;   /* of its last message */
  int64_t ids[BATCH];
} Slot;

static amqp_connection_state_t broker;
static int batch = BATCH;               /* rows claimed at once */
static uint64_t published, confirmed;   /* every tag up to `confirmed` has its confirm */
static char is_confirmed[2 * WINDOW];   /* by tag, for confirms that come out of order */

static void fail(const char *what, const char *why) {
  fprintf(stderr, "%s: %s\n", what, why);
  exit(1);
}

static const char *setting(const char *name) {
  const char *value = getenv(name);
  if (!value) fail(name, "is not set");
  return value;
}

static void connect_broker(void) {
  broker = amqp_new_connection();
  amqp_socket_t *socket = amqp_tcp_socket_new(broker);
  if (!socket || amqp_socket_open(socket, setting("BROKER_HOST"), atoi(setting("BROKER_PORT"))))
    fail("broker", "no connection");
  amqp_rpc_reply_t reply =
      amqp_login(broker, setting("BROKER_VHOST"), 0, 131072, 0, AMQP_SASL_METHOD_PLAIN,
                 setting("BROKER_USER"), setting("BROKER_PASSWORD"));
  if (reply.reply_type != AMQP_RESPONSE_NORMAL) fail("broker", "login refused");
  if (!amqp_channel_open(broker, 1) || !amqp_confirm_select(broker, 1))
    fail("broker", "no channel with confirms");
}

static void confirm(uint64_t tag, int multiple) {
  if (multiple) {
    for (; confirmed < tag; confirmed++) is_confirmed[(confirmed + 1) % (2 * WINDOW)] = 0;
  } else {
    is_confirmed[tag % (2 * WINDOW)] = 1;
  }
  while (is_confirmed[(confirmed + 1) % (2 * WINDOW)]) {
    confirmed++;
    is_confirmed[confirmed % (2 * WINDOW)] = 0;
  }
}

/* Read confirms until all messages up to `tag` have theirs. */
static void await_confirms(uint64_t tag) {
  while (confirmed < tag) {
    amqp_frame_t frame;
    if (amqp_simple_wait_frame(broker, &frame) != AMQP_STATUS_OK) fail("broker", "connection lost");
    if (frame.frame_type != AMQP_FRAME_METHOD) continue;
    if (frame.payload.method.id != AMQP_BASIC_ACK_METHOD)
      fail("broker", amqp_method_name(frame.payload.method.id));
    amqp_basic_ack_t *ack = frame.payload.method.decoded;
    confirm(ack->delivery_tag, ack->multiple);
    amqp_maybe_release_buffers_on_channel(broker, 1);
  }
}

static void publish(amqp_bytes_t exchange, amqp_bytes_t key, amqp_bytes_t id, amqp_bytes_t type,
                    amqp_bytes_t content_type, amqp_bytes_t body) {
  amqp_basic_properties_t properties = {
      ._flags = AMQP_BASIC_DELIVERY_MODE_FLAG | AMQP_BASIC_MESSAGE_ID_FLAG | AMQP_BASIC_TYPE_FLAG |
                AMQP_BASIC_CONTENT_TYPE_FLAG,
      .delivery_mode = AMQP_DELIVERY_PERSISTENT,
      .message_id = id,
      .type = type,
      .content_type = content_type};
  if (amqp_basic_publish(broker, 1, exchange, key, 1, 0, &properties, body) != AMQP_STATUS_OK)
    fail("broker", "publish failed");
  published++;
}

/* ---- the database ---------------------------------------------------------------------------- */

static PGconn *connect_database(void) {
  PGconn *database = PQconnectdb(setting("DATABASE"));
  if (PQstatus(database) != CONNECTION_OK) fail("database", PQerrorMessage(database));
  static const struct { const char *name, *sql; } statements[] = {
      {"begin", "BEGIN"},
      {"commit", "COMMIT"},
      {"claim",
       "SELECT id, event_id::text, type, routing_key, content_type, body FROM outbox "
       "WHERE ordering_key IS NULL AND not_before IS NULL "
       "ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED"},
      {"delete", "DELETE FROM outbox WHERE id = ANY($1::bigint[])"}};
  for (size_t i = 0; i < sizeof statements / sizeof *statements; i++) {
    PGresult *result = PQprepare(database, statements[i].name, statements[i].sql, 0, NULL);
    if (PQresultStatus(result) != PGRES_COMMAND_OK) fail("database", PQerrorMessage(database));
    PQclear(result);
  }
  PQclear(PQexec(database, "BEGIN"));
  if (!PQenterPipelineMode(database)) fail("database", "no pipeline mode");
  return database;
}

static void send_statement(PGconn *database, const char *name, const char *parameter, int length) {
  const int format = 1;
  if (!PQsendQueryPrepared(database, name, parameter ? 1 : 0, &parameter, &length, &format, 1))
    fail(name, PQerrorMessage(database));
}

static void put32(char **to, uint32_t value) {
  value = htonl(value);
  memcpy(*to, &value, 4);
  *to += 4;
}

/* One round trip, not awaited: delete what was confirmed, commit, and claim the next batch. */
static void send_settle_and_claim(Slot *slot) {
  static char array[20 + 12 * BATCH];
  char *end = array;
  put32(&end, 1); /* dimensions */
  put32(&end, 0); /* no null */
  put32(&end, 20); /* the type bigint */
  put32(&end, (uint32_t)slot->rows);
  put32(&end, 1); /* the first index */
  for (int i = 0; i < slot->rows; i++) {
    put32(&end, 8);
    put32(&end, (uint32_t)((uint64_t)slot->ids[i] >> 32));
    put32(&end, (uint32_t)slot->ids[i]);
  }
  if (slot->rows) send_statement(slot->database, "delete", array, (int)(end - array));
  char limit[8], *to = limit;
  put32(&to, 0);
  put32(&to, (uint32_t)batch);
  send_statement(slot->database, "commit", NULL, 0);
  send_statement(slot->database, "begin", NULL, 0);
  send_statement(slot->database, "claim", limit, sizeof limit);
  if (!PQpipelineSync(slot->database) || PQflush(slot->database) < 0)
    fail("database", PQerrorMessage(slot->database));
}

/* The result of one statement of a pipeline. */
static PGresult *next_result(PGconn *database, ExecStatusType wanted) {
  PGresult *result = PQgetResult(database);
  if (PQresultStatus(result) != wanted) fail("database", PQerrorMessage(database));
  if (wanted != PGRES_PIPELINE_SYNC) PQgetResult(database); /* the NULL after it */
  return result;
}

static amqp_bytes_t field(const PGresult *rows, int row, int column) {
  return (amqp_bytes_t){.len = (size_t)PQgetlength(rows, row, column),
                        .bytes = PQgetvalue(rows, row, column)};
}

/* Publish the batch that was claimed; returns how many rows it had. */
static int publish_claimed(Slot *slot, amqp_bytes_t exchange) {
  if (slot->rows) PQclear(next_result(slot->database, PGRES_COMMAND_OK));
  PQclear(next_result(slot->database, PGRES_COMMAND_OK));
  PQclear(next_result(slot->database, PGRES_COMMAND_OK));
  PGresult *rows = next_result(slot->database, PGRES_TUPLES_OK);
  PQclear(next_result(slot->database, PGRES_PIPELINE_SYNC));
  slot->rows = PQntuples(rows);
  for (int row = 0; row < slot->rows; row++) {
    uint32_t high, low;
    memcpy(&high, PQgetvalue(rows, row, ID), 4);
    memcpy(&low, PQgetvalue(rows, row, ID) + 4, 4);
    slot->ids[row] = (int64_t)((uint64_t)ntohl(high) << 32 | ntohl(low));
    publish(exchange, field(rows, row, ROUTING_KEY), field(rows, row, EVENT_ID),
            field(rows, row, TYPE), field(rows, row, CONTENT_TYPE), field(rows, row, BODY));
  }
  slot->last_tag = published;
  PQclear(rows);
  return slot->rows;
}

static void relay(amqp_bytes_t exchange) {
  static Slot slots[SLOTS];
  for (int i = 0; i < SLOTS; i++) {
    slots[i].database = connect_database();
    send_settle_and_claim(&slots[i]);
  }
  puts("ready");
  for (int turn = 0, is_first = 1;; turn = !turn, is_first = 0) {
    Slot *slot = &slots[turn], *other = &slots[!turn];
    publish_claimed(slot, exchange);
    if (is_first) continue; /* the other one has published nothing yet */
    if (!slot->rows && !other->rows) usleep(IDLE_MICROSECONDS);
    await_confirms(other->last_tag);
    send_settle_and_claim(other);
  }
}

static double seconds(const struct timeval *time) { return time->tv_sec + time->tv_usec / 1e6; }

static void publish_only(amqp_bytes_t exchange, uint64_t count) {
  static char body[BODY_BYTES];
  memset(body, 'x', sizeof body);
  amqp_bytes_t type = amqp_cstring_bytes("benchmark.row");
  amqp_bytes_t id = amqp_cstring_bytes("0190b4f0-0000-7000-8000-000000000000");
  puts("ready");
  struct timespec began, ended;
  clock_gettime(CLOCK_MONOTONIC, &began);
  while (published < count) {
    if (published >= WINDOW) await_confirms(published - WINDOW + 1);
    publish(exchange, type, id, type, amqp_cstring_bytes("application/json"),
            (amqp_bytes_t){.len = sizeof body, .bytes = body});
  }
  await_confirms(count);
  clock_gettime(CLOCK_MONOTONIC, &ended);
  struct rusage used;
  getrusage(RUSAGE_SELF, &used);
  printf("{\"rows\": %llu, \"seconds\": %.6f, \"cpu_seconds\": %.6f}\n", (unsigned long long)count,
         (double)(ended.tv_sec - began.tv_sec) + (double)(ended.tv_nsec - began.tv_nsec) / 1e9,
         seconds(&used.ru_utime) + seconds(&used.ru_stime));
}

int main(int count, char **arguments) {
  setvbuf(stdout, NULL, _IOLBF, 0);
  const char *wanted = getenv("BATCH");
  if (wanted) batch = atoi(wanted);
  if (batch < 1 || batch > BATCH) fail("BATCH", "is not from 1 to 500");
  connect_broker();
  amqp_bytes_t exchange = amqp_cstring_bytes(setting("EXCHANGE"));
  if (count == 2 && !strcmp(arguments[1], "relay")) relay(exchange);
  if (count == 3 && !strcmp(arguments[1], "publish"))
    publish_only(exchange, strtoull(arguments[2], NULL, 10));
  else
    fail("full_job", "relay | publish COUNT");
  return 0;
}
