-- The roles of an installation on Postgres 14 and newer, and exactly the rights that each one needs.
--
--     psql --dbname "$DATABASE" --set schema=mq --file roles.sql
--
-- Run it before the first `relay migrate`, which needs the owner, and after each one, for tables
-- that are new. It may be run at any time: processes go on, and rights on these tables that the
-- list below does not have are revoked from these roles. Other roles keep their rights on tables;
-- only producers may call the functions, and only the owner may create in the schema.
--
-- Variables, each for --set:
--     schema   the schema of the tables, as in MQ_DATABASE_SCHEMA; public by default
--     prefix   what the names of roles begin with; outbox_ by default. Roles belong to the whole
--              server, so two installations on one server need two prefixes.
--     owner, producer, relay, consumer, operator, key_operator, eraser, auditor, monitoring
--              another name for one role, which may exist already
--     retention
--              set it to anything if MQ_DEAD_LETTER_RETENTION_DAYS or
--              MQ_DEAD_LETTER_BODY_RETENTION_DAYS is set: relay and consumer then delete dead
--              letters, or their bodies, and record that in the audit log
--
-- A role that the script creates cannot log in. Either give it a password and LOGIN, or grant it
-- to a role that can: see docs/how-to/deploy.md.
--
-- Superusers may run it, and roles with CREATEROLE and with CREATE on the database; for the schema
-- public they have to own the database.

\set ON_ERROR_STOP on
\set QUIET on

\if :{?schema}     \else \set schema public \endif
\if :{?prefix}     \else \set prefix outbox_ \endif
\if :{?owner}      \else \set owner :prefix owner \endif
\if :{?producer}   \else \set producer :prefix producer \endif
\if :{?relay}      \else \set relay :prefix relay \endif
\if :{?consumer}   \else \set consumer :prefix consumer \endif
\if :{?operator}   \else \set operator :prefix operator \endif
\if :{?key_operator} \else \set key_operator :prefix key_operator \endif
\if :{?eraser}     \else \set eraser :prefix eraser \endif
\if :{?auditor}    \else \set auditor :prefix auditor \endif
\if :{?monitoring} \else \set monitoring :prefix monitoring \endif

-- All or nothing: no session sees a role between its revoked and its granted rights.
begin;
set local lock_timeout = '5s'; -- a lock that waits blocks the statements behind it
set local client_min_messages = warning;

-- Roles.
select format('create role %I nologin', wanted.name)
  from unnest(array[
         :'owner', :'producer', :'relay', :'consumer', :'operator', :'key_operator', :'eraser',
         :'auditor',
         :'monitoring'
       ]) as wanted (name)
 where to_regrole(quote_ident(wanted.name)) is null
\gexec

-- Only a member of the owner may create its schema and grant rights on its tables.
select format('grant %I to current_user', :'owner')
  from pg_roles
 where rolname = current_user and not rolsuper
\gexec

-- The schema. The owner may create in it, and only that role.
select format('create schema %I authorization %I', :'schema', :'owner')
 where to_regnamespace(quote_ident(:'schema')) is null
\gexec
revoke create on schema :"schema" from public;
grant usage, create on schema :"schema" to :"owner";
grant usage on schema :"schema"
   to :"producer", :"relay", :"consumer", :"operator", :"key_operator", :"eraser", :"auditor",
      :"monitoring";

-- No role but the owner may call functions that later migrations create.
alter default privileges for role :"owner" revoke execute on functions from public;

-- Tables and functions of an installation that began without this script.
\set tables '{approvals, audit_head, audit_log, begun_deliveries, consumer_generations, consumer_members, consumer_partitions, dead_letters, failing_messages, ordering_secret, outbox, outbox_compatibility, outbox_processes, outbox_relay_version, outbox_targets, parked_messages, processed_messages, replies}'
\set functions '{approvals_two_persons, audit_log_append_only, audit_log_chain, outbox_add, outbox_refuse_ids, outbox_refuse_plaintext, outbox_repair_ids, outbox_wake_relay}'

select format('alter table %s owner to %I', relation.oid::regclass, :'owner')
  from pg_class as relation
 where relation.relnamespace = to_regnamespace(quote_ident(:'schema'))
   and relation.relname = any (:'tables'::text[])
   and relation.relowner <> to_regrole(quote_ident(:'owner'))
\gexec
select format('alter function %s owner to %I', function.oid::regprocedure, :'owner')
  from pg_proc as function
 where function.pronamespace = to_regnamespace(quote_ident(:'schema'))
   and function.proname = any (:'functions'::text[])
   and function.proowner <> to_regrole(quote_ident(:'owner'))
\gexec

-- Rights that an earlier version of this script, or a person, has given to these roles.
select format('revoke all on %s from %I', relation.oid::regclass, named.name)
  from pg_class as relation,
       unnest(array[
         :'producer', :'relay', :'consumer', :'operator', :'key_operator', :'eraser', :'auditor',
         :'monitoring'
       ]) as named (name)
 where relation.relnamespace = to_regnamespace(quote_ident(:'schema'))
   and relation.relkind in ('r', 'S')
   and regexp_replace(relation.relname, '_id_seq$', '') = any (:'tables'::text[])
\gexec
select format('revoke all on function %s from public', function.oid::regprocedure)
  from pg_proc as function
 where function.pronamespace = to_regnamespace(quote_ident(:'schema'))
   and function.proname = any (:'functions'::text[])
\gexec

-- The rights of each role; the last column names the columns of a right that is not for the whole
-- table. An object that no migration has created yet is left out.
--
-- producer:   inserts events. It reads none, so that a service sees no events of another. It reads
--             the replies to requests.
-- relay:      publishes. It cannot change what an event says, only when it is published.
-- consumer:   handles, and stores replies. Grant it the producer too if its handlers record events
--             or answer requests.
-- operator:   `status`, `monitor`, `dead`, `approve` and `topology --adopt`. It sees bodies of dead
--             letters, whose reading is audited, but none of the outbox. xmax shows rows in work.
--             Give each person a role of their own: a second person is another role.
-- key_operator: `keys status`, `rotate`, `rewrap` and `retire`. It sees and replaces encrypted
--             bodies, since their first bytes name the key, and plain ones too: with the keys it can
--             read every event anyway. `require` and `allow-plaintext` need the owner.
-- eraser:     `erase` and `readmit`, with key_roles.sql for the key database. It counts the bodies
--             that can be read no more.
-- auditor:    reads who did what, and why, and verifies the log.
-- monitoring: reads numbers, times and codes: no body, no header, no key, no id of a message.
select format(
         'grant %s on %s %s to %I',
         case when columns is null then rights else format('%s (%s)', rights, columns) end,
         kind, coalesce(relation.oid::regclass::text, function.oid::regprocedure::text), name
       )
  from (
         values
           ('relay', 'select, delete', 'table', 'outbox', null),
           ('relay', 'update', 'table', 'outbox', 'attempts, last_error, not_before'),
           ('relay', 'select, insert', 'table', 'dead_letters', null),
           ('relay', 'select', 'table', 'ordering_secret', null),
           ('relay', 'select, insert', 'table', 'outbox_targets', null),
           ('relay', 'select, insert, update, delete', 'table', 'outbox_processes', null),
           ('relay', 'select', 'table', 'outbox_relay_version', null),
           ('relay', 'select', 'table', 'outbox_compatibility', null),
           ('relay', 'select', 'sequence', 'outbox_id_seq', null),
           ('relay', 'select', 'sequence', 'dead_letters_id_seq', null),

           ('consumer', 'select, insert, update, delete', 'table', 'processed_messages', null),
           ('consumer', 'select, insert, update, delete', 'table', 'begun_deliveries', null),
           ('consumer', 'select, insert, update, delete', 'table', 'failing_messages', null),
           ('consumer', 'select, insert, update, delete', 'table', 'parked_messages', null),
           ('consumer', 'select, insert, update, delete', 'table', 'consumer_generations', null),
           ('consumer', 'select, insert, update, delete', 'table', 'consumer_partitions', null),
           ('consumer', 'select, insert, update, delete', 'table', 'consumer_members', null),
           ('consumer', 'select, insert', 'table', 'dead_letters', null),
           ('consumer', 'select, insert, update, delete', 'table', 'replies', null),
           ('consumer', 'select', 'table', 'audit_log', null),
           ('consumer', 'select, insert', 'table', 'outbox_targets', null),
           ('consumer', 'select, insert, update, delete', 'table', 'outbox_processes', null),
           ('consumer', 'select', 'table', 'outbox_relay_version', null),
           ('consumer', 'select', 'table', 'outbox_compatibility', null),
           ('consumer', 'select', 'sequence', 'dead_letters_id_seq', null),
           ('consumer', 'select', 'sequence', 'parked_messages_id_seq', null),

           ('producer', 'insert', 'table', 'outbox', null),
           ('producer', 'execute', 'function', 'outbox_add', null),
           ('producer', 'select, insert', 'table', 'replies', null),

           ('operator', 'select, update, delete', 'table', 'dead_letters', null),
           ('operator', 'select, insert', 'table', 'audit_log', null),
           ('operator', 'select', 'table', 'audit_head', null),
           ('operator', 'select, insert', 'table', 'approvals', null),
           ('operator', 'update', 'table', 'approvals',
            'approved_by, approved_role, approved_at, used_at'),
           ('operator', 'insert', 'table', 'outbox', null),
           ('operator', 'select', 'table', 'outbox',
            'id, event_id, type, exchange, routing_key, ordering_key, priority, content_type, '
            'content_encoding, occurred_at, created_at, not_before, attempts, last_error, xmax'),
           ('operator', 'select, update, delete', 'table', 'processed_messages', null),
           ('operator', 'select', 'table', 'parked_messages',
            'id, consumer, attempts, due_at, type, parked_at'),
           ('operator', 'select, insert, update', 'table', 'outbox_targets', null),
           ('operator', 'select', 'table', 'failing_messages', null),
           ('operator', 'select', 'table', 'consumer_generations', null),
           ('operator', 'select', 'table', 'consumer_partitions', null),
           ('operator', 'select', 'table', 'consumer_members', null),
           ('operator', 'select', 'table', 'outbox_processes', null),
           ('operator', 'select', 'table', 'outbox_relay_version', null),
           ('operator', 'select', 'table', 'outbox_compatibility', null),

           ('key_operator', 'select', 'table', 'outbox',
            'id, content_encoding, body, created_at'),
           ('key_operator', 'update', 'table', 'outbox', 'body'),
           ('key_operator', 'select', 'table', 'dead_letters',
            'id, content_encoding, body, body_expired_at, first_at'),
           ('key_operator', 'update', 'table', 'dead_letters', 'body'),
           ('key_operator', 'select', 'table', 'parked_messages',
            'id, content_encoding, body, parked_at'),
           ('key_operator', 'update', 'table', 'parked_messages', 'body'),
           ('key_operator', 'select, insert', 'table', 'audit_log', null),
           ('key_operator', 'select', 'table', 'audit_head', null),
           ('key_operator', 'select', 'table', 'outbox_relay_version', null),
           ('key_operator', 'select', 'table', 'outbox_compatibility', null),

           ('eraser', 'insert', 'table', 'outbox', null),
           ('eraser', 'select', 'table', 'outbox', 'content_encoding, body, xmax'),
           ('eraser', 'select', 'table', 'dead_letters', 'content_encoding, body'),
           ('eraser', 'select', 'table', 'parked_messages', 'content_encoding, body'),
           ('eraser', 'select, insert', 'table', 'audit_log', null),
           ('eraser', 'select', 'table', 'audit_head', null),
           ('eraser', 'select, insert', 'table', 'approvals', null),
           ('eraser', 'update', 'table', 'approvals', 'used_at'),
           ('eraser', 'select', 'table', 'outbox_relay_version', null),
           ('eraser', 'select', 'table', 'outbox_compatibility', null),

           ('auditor', 'select', 'table', 'audit_log', null),
           ('auditor', 'select', 'table', 'audit_head', null),
           ('auditor', 'select', 'table', 'approvals', null),
           ('auditor', 'select', 'table', 'outbox_relay_version', null),

           ('monitoring', 'select', 'table', 'outbox',
            'id, type, exchange, routing_key, priority, content_type, content_encoding, '
            'occurred_at, created_at, not_before, attempts, last_error'),
           ('monitoring', 'select', 'table', 'dead_letters',
            'id, source, queue, reason, attempts, type, exchange, routing_key, first_at, last_at, '
            'error_class, error_place, body_expired_at'),
           ('monitoring', 'select', 'table', 'processed_messages',
            'consumer, type, status, attempts, lease_until, processing_duration_seconds, '
            'processed_at'),
           ('monitoring', 'select', 'table', 'parked_messages',
            'id, consumer, attempts, due_at, type, parked_at'),
           ('monitoring', 'select', 'table', 'failing_messages',
            'consumer, type, error_class, error_place, attempts, first_at, last_at, due_at'),
           ('monitoring', 'select', 'table', 'consumer_generations', null),
           ('monitoring', 'select', 'table', 'consumer_partitions', null),
           ('monitoring', 'select', 'table', 'consumer_members', null),
           ('monitoring', 'select', 'table', 'replies',
            'request_id, type, state, requested_at, expires_at, answered_at, code'),
           ('monitoring', 'select', 'table', 'outbox_targets', null),
           ('monitoring', 'select', 'table', 'outbox_processes', null),
           ('monitoring', 'select', 'table', 'outbox_relay_version', null),
           ('monitoring', 'select', 'table', 'outbox_compatibility', null)
       ) as granted (role, rights, kind, object, columns)
  join (
         values
           ('producer', :'producer'), ('relay', :'relay'), ('consumer', :'consumer'),
           ('operator', :'operator'), ('key_operator', :'key_operator'), ('eraser', :'eraser'),
           ('auditor', :'auditor'),
           ('monitoring', :'monitoring')
       ) as named (role, name) using (role)
  left join pg_class as relation
    on kind <> 'function' and relation.relname = object
   and relation.relnamespace = to_regnamespace(quote_ident(:'schema'))
  left join pg_proc as function
    on kind = 'function' and function.proname = object
   and function.pronamespace = to_regnamespace(quote_ident(:'schema'))
 where coalesce(relation.oid, function.oid) is not null
\gexec

-- Only then may a process delete dead letters, or their bodies.
\if :{?retention}
select format('grant %s on %s to %I, %I', rights, relation.oid::regclass, :'relay', :'consumer')
  from (
         values
           ('update, delete', 'dead_letters'),
           ('select, insert', 'audit_log'),
           ('select', 'audit_log_id_seq')
       ) as granted (rights, object)
  join pg_class as relation
    on relation.relname = object
   and relation.relnamespace = to_regnamespace(quote_ident(:'schema'))
\gexec
\endif

-- For mq_oldest_snapshot_age_seconds, which looks at the transactions of all roles.
select rolsuper
    or current_setting('server_version_num')::integer < 160000
    or pg_has_role('pg_read_all_stats', 'member with admin option') as may_grant_statistics
  from pg_roles where rolname = current_user
\gset
\if :may_grant_statistics
grant pg_read_all_stats to :"relay";
\else
\warn 'without pg_read_all_stats the relay sees no transactions of other roles: a superuser may run: grant pg_read_all_stats to' :relay
\endif

commit;
