-- The roles of a key database on Postgres 14 and newer, and exactly the rights that each one needs.
--
--     psql --dbname "$KEY_DATABASE" --file key_roles.sql
--
-- Run it after `relay keys init`, in the database of MQ_SUBJECT_KEYS_URL or MQ_ENCRYPTION_KEYS, which
-- is another one than that of the outbox. It may be run at any time: processes go on, and rights on
-- these tables that the list below does not have are revoked from these roles.
--
-- Variables, each for --set:
--     schema   the schema of the tables; public by default
--     prefix   what the names of roles begin with; outbox_key_ by default
--     owner, producer, consumer, eraser
--              another name for one role, which may exist already
--
-- A role that the script creates cannot log in: grant it to one that can. Superusers may run it,
-- and roles with CREATEROLE that own the tables.

\set ON_ERROR_STOP on
\set QUIET on

\if :{?schema}   \else \set schema public \endif
\if :{?prefix}   \else \set prefix outbox_key_ \endif
\if :{?owner}    \else \set owner :prefix owner \endif
\if :{?producer} \else \set producer :prefix producer \endif
\if :{?consumer} \else \set consumer :prefix consumer \endif
\if :{?eraser}   \else \set eraser :prefix eraser \endif

-- All or nothing: no session sees a role between its revoked and its granted rights.
begin;
set local lock_timeout = '5s'; -- a lock that waits blocks the statements behind it
set local client_min_messages = warning;

select format('create role %I nologin', wanted.name)
  from unnest(array[:'owner', :'producer', :'consumer', :'eraser']) as wanted (name)
 where to_regrole(quote_ident(wanted.name)) is null
\gexec
select format('grant %I to current_user', :'owner')
  from pg_roles
 where rolname = current_user and not rolsuper
\gexec

revoke create on schema :"schema" from public;
grant usage, create on schema :"schema" to :"owner";
grant usage on schema :"schema" to :"producer", :"consumer", :"eraser";

\set tables '{digest_fingerprint, encryption_keys, key_store, subject_keys}'

select format('alter table %s owner to %I', relation.oid::regclass, :'owner')
  from pg_class as relation
 where relation.relnamespace = to_regnamespace(quote_ident(:'schema'))
   and relation.relname = any (:'tables'::text[])
   and relation.relowner <> to_regrole(quote_ident(:'owner'))
\gexec
select format('revoke all on %s from %I', relation.oid::regclass, named.name)
  from pg_class as relation,
       unnest(array[:'producer', :'consumer', :'eraser']) as named (name)
 where relation.relnamespace = to_regnamespace(quote_ident(:'schema'))
   and relation.relname = any (:'tables'::text[])
\gexec

-- The rights of each role; the last column names the columns of a right that is not for the whole
-- table.
--
-- producer: makes the key of a person who is new, and changes none.
-- consumer: reads keys.
-- eraser:   destroys the keys of persons, and reads none of them.
-- owner:    `relay keys`: makes, rotates and wraps keys again.
select format(
         'grant %s on table %s to %I',
         case when columns is null then rights else format('%s (%s)', rights, columns) end,
         relation.oid::regclass, name
       )
  from (
         values
           ('producer', 'select', 'key_store', null),
           ('producer', 'select', 'encryption_keys', null),
           ('producer', 'select, insert', 'digest_fingerprint', null),
           ('producer', 'select', 'subject_keys', null),
           ('producer', 'insert', 'subject_keys', 'id, digest, key_id, wrapped'),

           ('consumer', 'select', 'key_store', null),
           ('consumer', 'select', 'encryption_keys', null),
           ('consumer', 'select', 'subject_keys', null),

           ('eraser', 'select', 'key_store', null),
           ('eraser', 'select', 'encryption_keys', null),
           ('eraser', 'select', 'digest_fingerprint', null),
           ('eraser', 'select', 'subject_keys',
            'id, digest, state, erased_at, announced_at, run'),
           ('eraser', 'update', 'subject_keys',
            'digest, wrapped, state, erased_at, announced_at, run')
       ) as granted (role, rights, object, columns)
  join (
         values
           ('producer', :'producer'), ('consumer', :'consumer'), ('eraser', :'eraser')
       ) as named (role, name) using (role)
  join pg_class as relation
    on relation.relname = object
   and relation.relnamespace = to_regnamespace(quote_ident(:'schema'))
\gexec

commit;
