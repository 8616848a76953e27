-- The ledger's database on a PostgreSQL server (14 or newer), once, as an administrator:
--
--   psql -v owner_password="'...'" -v node_password="'...'" -f deploy/postgresql.sql
--
-- Two roles. `npc_owner` owns the tables and runs `npc-rtnode db upgrade`, nothing else. `npc_rtnode` is the node's: it
-- reads, adds and changes rows, deletes none, and cannot change a row of the journal, nor what was received (only whether
-- a content counts, which `release --keep` decides). Nobody else may connect. Further worker hosts work as `npc_rtnode`.
-- After the first `db upgrade`, and after every later one, as npc_owner in that database:
--
--   REVOKE UPDATE ON events, instances, verdicts, alembic_version FROM npc_rtnode;
--   GRANT UPDATE (state) ON instances TO npc_rtnode;
--
-- and with work.engine = "procrastinate", whose entries come and go, and hold the number of a piece of work alone:
--
--   GRANT DELETE ON procrastinate_jobs, procrastinate_workers TO npc_rtnode;

CREATE ROLE npc_owner LOGIN PASSWORD :owner_password;
CREATE ROLE npc_rtnode LOGIN PASSWORD :node_password;
CREATE DATABASE npc_rtnode OWNER npc_owner ENCODING 'UTF8' TEMPLATE template0;
REVOKE ALL ON DATABASE npc_rtnode FROM PUBLIC;
GRANT CONNECT ON DATABASE npc_rtnode TO npc_rtnode;

\connect npc_rtnode
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT CREATE, USAGE ON SCHEMA public TO npc_owner;
GRANT USAGE ON SCHEMA public TO npc_rtnode;
ALTER DEFAULT PRIVILEGES FOR ROLE npc_owner IN SCHEMA public GRANT SELECT, INSERT, UPDATE ON TABLES TO npc_rtnode;
ALTER DEFAULT PRIVILEGES FOR ROLE npc_owner IN SCHEMA public GRANT USAGE ON SEQUENCES TO npc_rtnode;
