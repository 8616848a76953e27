SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET transaction_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;
SET default_tablespace = '';
SET default_table_access_method = heap;
CREATE TABLE public.alembic_version (
    version_num character varying(32) NOT NULL
);
CREATE TABLE public.associations (
    id character varying(36) NOT NULL,
    calling_ae character varying(64) NOT NULL,
    called_ae character varying(64) NOT NULL,
    peer_ip character varying(45) NOT NULL,
    opened_at timestamp without time zone NOT NULL,
    ended_at timestamp without time zone,
    how character varying(200),
    last_series_id integer,
    refused json NOT NULL
);
CREATE TABLE public.attempts (
    id integer NOT NULL,
    subject character varying(16) NOT NULL,
    subject_id integer NOT NULL,
    stage character varying(16) NOT NULL,
    lease_token character varying(36) NOT NULL,
    started_at timestamp without time zone NOT NULL,
    ended_at timestamp without time zone,
    outcome character varying(16),
    detail text
);
CREATE SEQUENCE public.attempts_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.attempts_id_seq OWNED BY public.attempts.id;
CREATE TABLE public.deliveries (
    id integer NOT NULL,
    object_id integer NOT NULL,
    destination character varying(32) NOT NULL,
    state character varying(16) NOT NULL,
    status integer,
    warning boolean NOT NULL,
    sent_at timestamp without time zone,
    due_at timestamp without time zone NOT NULL,
    first_due_at timestamp without time zone NOT NULL,
    attempts integer NOT NULL,
    crashes integer NOT NULL,
    lease_token character varying(36),
    lease_until timestamp without time zone,
    last_error text
);
CREATE SEQUENCE public.deliveries_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.deliveries_id_seq OWNED BY public.deliveries.id;
CREATE TABLE public.events (
    seq bigint NOT NULL,
    at timestamp without time zone NOT NULL,
    actor character varying(64) DEFAULT 'node'::character varying NOT NULL,
    subject character varying(16) NOT NULL,
    subject_id character varying(64) NOT NULL,
    event character varying(32) NOT NULL,
    from_state character varying(16),
    to_state character varying(16),
    detail json NOT NULL,
    previous_hash character varying(64) NOT NULL,
    hash character varying(64) NOT NULL
);
CREATE SEQUENCE public.events_seq_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.events_seq_seq OWNED BY public.events.seq;
CREATE TABLE public.instances (
    id bigint NOT NULL,
    series_id integer NOT NULL,
    association_id character varying(36) NOT NULL,
    sop_uid character varying(64) NOT NULL,
    sop_class_uid character varying(64) NOT NULL,
    transfer_syntax_uid character varying(64) NOT NULL,
    sha256 character varying(64) NOT NULL,
    size bigint NOT NULL,
    state character varying(16) NOT NULL,
    received_at timestamp without time zone NOT NULL
);
CREATE SEQUENCE public.instances_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.instances_id_seq OWNED BY public.instances.id;
CREATE TABLE public.jobs (
    id integer NOT NULL,
    series_id integer NOT NULL,
    work_key character varying(64) NOT NULL,
    result_revision integer NOT NULL,
    input_digest character varying(64) NOT NULL,
    bundle_hash character varying(64) NOT NULL,
    bundle_name character varying(128) NOT NULL,
    settings_hash character varying(64) NOT NULL,
    indication text NOT NULL,
    state character varying(16) NOT NULL,
    reasons json NOT NULL,
    releasable boolean NOT NULL,
    content_at timestamp without time zone NOT NULL,
    results json NOT NULL,
    created_at timestamp without time zone NOT NULL,
    due_at timestamp without time zone NOT NULL,
    first_due_at timestamp without time zone NOT NULL,
    attempts integer NOT NULL,
    crashes integer NOT NULL,
    lease_token character varying(36),
    lease_until timestamp without time zone,
    last_error text
);
CREATE SEQUENCE public.jobs_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.jobs_id_seq OWNED BY public.jobs.id;
CREATE TABLE public.objects (
    id integer NOT NULL,
    job_id integer NOT NULL,
    kind character varying(16) NOT NULL,
    sop_class_uid character varying(64) NOT NULL,
    sop_uid character varying(64) NOT NULL,
    sha256 character varying(64) NOT NULL,
    size integer NOT NULL,
    created_at timestamp without time zone NOT NULL,
    came_back integer NOT NULL,
    variant character varying(16) DEFAULT ''::character varying NOT NULL
);
CREATE SEQUENCE public.objects_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.objects_id_seq OWNED BY public.objects.id;
CREATE TABLE public.removals (
    id bigint NOT NULL,
    series_id integer NOT NULL,
    place character varying(16) NOT NULL,
    name character varying(64) NOT NULL,
    size bigint NOT NULL,
    removed_at timestamp without time zone NOT NULL,
    actor character varying(64) NOT NULL,
    reason text NOT NULL,
    restored_at timestamp without time zone
);
CREATE SEQUENCE public.removals_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.removals_id_seq OWNED BY public.removals.id;
CREATE TABLE public.series (
    id integer NOT NULL,
    study_id integer NOT NULL,
    series_uid character varying(64) NOT NULL,
    revision integer NOT NULL,
    modality character varying(16) NOT NULL,
    called_ae character varying(16) NOT NULL,
    state character varying(16) NOT NULL,
    reasons json NOT NULL,
    operators_word text,
    waived json NOT NULL,
    troubles integer NOT NULL,
    last_association_id character varying(36) NOT NULL,
    first_received_at timestamp without time zone NOT NULL,
    last_received_at timestamp without time zone NOT NULL,
    due_at timestamp without time zone,
    closed_at timestamp without time zone,
    closed_because text,
    input_digest character varying(64),
    rules_hash character varying(64)
);
CREATE SEQUENCE public.series_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.series_id_seq OWNED BY public.series.id;
CREATE TABLE public.studies (
    id integer NOT NULL,
    study_uid character varying(64) NOT NULL,
    reference character varying(16) NOT NULL,
    first_received_at timestamp without time zone NOT NULL,
    hold text
);
CREATE SEQUENCE public.studies_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.studies_id_seq OWNED BY public.studies.id;
CREATE TABLE public.verdicts (
    id integer NOT NULL,
    series_id integer NOT NULL,
    rule character varying(200) NOT NULL,
    truth character varying(8) NOT NULL,
    because text NOT NULL,
    at timestamp without time zone NOT NULL
);
CREATE SEQUENCE public.verdicts_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.verdicts_id_seq OWNED BY public.verdicts.id;
ALTER TABLE ONLY public.attempts ALTER COLUMN id SET DEFAULT nextval('public.attempts_id_seq'::regclass);
ALTER TABLE ONLY public.deliveries ALTER COLUMN id SET DEFAULT nextval('public.deliveries_id_seq'::regclass);
ALTER TABLE ONLY public.events ALTER COLUMN seq SET DEFAULT nextval('public.events_seq_seq'::regclass);
ALTER TABLE ONLY public.instances ALTER COLUMN id SET DEFAULT nextval('public.instances_id_seq'::regclass);
ALTER TABLE ONLY public.jobs ALTER COLUMN id SET DEFAULT nextval('public.jobs_id_seq'::regclass);
ALTER TABLE ONLY public.objects ALTER COLUMN id SET DEFAULT nextval('public.objects_id_seq'::regclass);
ALTER TABLE ONLY public.removals ALTER COLUMN id SET DEFAULT nextval('public.removals_id_seq'::regclass);
ALTER TABLE ONLY public.series ALTER COLUMN id SET DEFAULT nextval('public.series_id_seq'::regclass);
ALTER TABLE ONLY public.studies ALTER COLUMN id SET DEFAULT nextval('public.studies_id_seq'::regclass);
ALTER TABLE ONLY public.verdicts ALTER COLUMN id SET DEFAULT nextval('public.verdicts_id_seq'::regclass);
INSERT INTO public.alembic_version VALUES ('0003');
INSERT INTO public.associations VALUES ('a-1', 'PACS', 'NPC_RTNODE', '127.0.0.1', '2026-11-23 12:00:00', '2026-11-23 12:00:00', 'released', 1, '[]');
INSERT INTO public.associations VALUES ('a-1+', 'PACS', 'NPC_RTNODE', '127.0.0.1', '2026-11-23 12:00:00', '2026-11-23 12:00:31', 'released', 2, '[]');
INSERT INTO public.associations VALUES ('a-1++', 'PACS', 'NPC_RTNODE', '127.0.0.1', '2026-11-23 12:00:31', NULL, NULL, 3, '[]');
INSERT INTO public.attempts VALUES (1, 'job', 1, 'infer', '42dbd00d-69d0-480a-a462-77db07ccf4c1', '2026-11-23 12:00:31', '2026-11-23 12:00:31', 'DONE', NULL);
INSERT INTO public.attempts VALUES (2, 'job', 1, 'write', 'cb75e381-77db-4569-ae69-88c231d53899', '2026-11-23 12:00:31', '2026-11-23 12:00:31', 'DONE', NULL);
INSERT INTO public.attempts VALUES (3, 'delivery', 1, 'deliver', '32a4230f-b1a7-44f6-812c-8479267a419b', '2026-11-23 12:00:31', '2026-11-23 12:00:31', 'DONE', NULL);
INSERT INTO public.deliveries VALUES (2, 1, 'pacs', 'PENDING', NULL, false, NULL, '2026-11-23 12:00:31', '2026-11-23 12:00:31', 0, 0, NULL, NULL, NULL);
INSERT INTO public.deliveries VALUES (3, 2, 'pacs', 'PENDING', NULL, false, NULL, '2026-11-23 12:00:31', '2026-11-23 12:00:31', 0, 0, NULL, NULL, NULL);
INSERT INTO public.deliveries VALUES (1, 1, 'tps', 'SENT', 0, false, '2026-11-23 12:00:31', '2026-11-23 12:00:31', '2026-11-23 12:00:31', 1, 0, NULL, NULL, NULL);
INSERT INTO public.events VALUES (1, '2026-11-23 12:00:00', 'node', 'series', '1', 'BORN', NULL, 'RECEIVING', '{"revision": 1, "study": "D3M-B6K"}', '0000000000000000000000000000000000000000000000000000000000000000', '17c0faab93aeeaee106f384161339595f4e5863fec0a96c1a9c821df7b5df167');
INSERT INTO public.events VALUES (2, '2026-11-23 12:00:31', 'node', 'series', '1', 'CLOSED_WHOLE', 'RECEIVING', 'COMPLETE', '{"because": "quiet and whole", "reasons": []}', '17c0faab93aeeaee106f384161339595f4e5863fec0a96c1a9c821df7b5df167', 'd41643d8c09f710ad4662068185d84daafbc0f497aa532016c7b532ff1ddb3a1');
INSERT INTO public.events VALUES (3, '2026-11-23 12:00:31', 'node', 'series', '1', 'SELECTED', 'COMPLETE', 'SELECTED', '{"rules": "rrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrr", "reasons": []}', 'd41643d8c09f710ad4662068185d84daafbc0f497aa532016c7b532ff1ddb3a1', '1a13eb0e953c293e6338eeb49ae9d326a46e81ca1ccf397f49640e2c68ba9f6c');
INSERT INTO public.events VALUES (4, '2026-11-23 12:00:31', 'node', 'job', '1', 'BORN', NULL, 'QUEUED', '{"work_key": "cf9ec1cbbbbe63fff5be768343e3c7e2668c8e459dc1b1c6e14c5f1e2eb3e366", "result_revision": 1}', '1a13eb0e953c293e6338eeb49ae9d326a46e81ca1ccf397f49640e2c68ba9f6c', '5e681ac576b4d11a8be246a2ba21b44d8ac78c67a34f884099a430b0b5e4a65d');
INSERT INTO public.events VALUES (5, '2026-11-23 12:00:31', 'node', 'job', '1', 'BEGUN', 'QUEUED', 'PREDICTING', '{"attempt": 1}', '5e681ac576b4d11a8be246a2ba21b44d8ac78c67a34f884099a430b0b5e4a65d', 'a128772747d42bcbd14e94afa944a2ab726d1857ad922c10d192329099a1ace5');
INSERT INTO public.events VALUES (6, '2026-11-23 12:00:31', 'node', 'job', '1', 'DONE', 'PREDICTING', 'PREDICTED', '{}', 'a128772747d42bcbd14e94afa944a2ab726d1857ad922c10d192329099a1ace5', 'da8fac6c070ef5bb8f4d208395158baee975bc2073745f11e3bd948a42310806');
INSERT INTO public.events VALUES (7, '2026-11-23 12:00:31', 'node', 'job', '1', 'BEGUN', 'PREDICTED', 'WRITING', '{"attempt": 1}', 'da8fac6c070ef5bb8f4d208395158baee975bc2073745f11e3bd948a42310806', 'f0416469864c5cafd44d07785925e3de07ca50f2c879ae8c208407e4a6bb883d');
INSERT INTO public.events VALUES (8, '2026-11-23 12:00:31', 'node', 'delivery', '1', 'BORN', NULL, 'PENDING', '{"destination": "tps", "kind": "RTSTRUCT"}', 'f0416469864c5cafd44d07785925e3de07ca50f2c879ae8c208407e4a6bb883d', '96265b76d19cbc44ebf6f214d13c0ba13ee9907cfb4ad5c8155627160a98b255');
INSERT INTO public.events VALUES (9, '2026-11-23 12:00:31', 'node', 'delivery', '2', 'BORN', NULL, 'PENDING', '{"destination": "pacs", "kind": "RTSTRUCT"}', '96265b76d19cbc44ebf6f214d13c0ba13ee9907cfb4ad5c8155627160a98b255', '82fa401f524f396f0a6dc150e46b1229d6fd3d7839754769eaf4d80891ea80c8');
INSERT INTO public.events VALUES (10, '2026-11-23 12:00:31', 'node', 'delivery', '3', 'BORN', NULL, 'PENDING', '{"destination": "pacs", "kind": "SR"}', '82fa401f524f396f0a6dc150e46b1229d6fd3d7839754769eaf4d80891ea80c8', 'cb464e58f5702f6599bdbb33b0c1336322ddcc9db1e2d10b2b17d718563209bc');
INSERT INTO public.events VALUES (11, '2026-11-23 12:00:31', 'node', 'job', '1', 'DONE', 'WRITING', 'WRITTEN', '{"reasons": []}', 'cb464e58f5702f6599bdbb33b0c1336322ddcc9db1e2d10b2b17d718563209bc', 'd1fccc786bddbb2fc6113bc732d59ec320e97c2f13fc6f3606baeed200e35380');
INSERT INTO public.events VALUES (12, '2026-11-23 12:00:31', 'node', 'delivery', '1', 'BEGUN', 'PENDING', 'SENDING', '{"attempt": 1}', 'd1fccc786bddbb2fc6113bc732d59ec320e97c2f13fc6f3606baeed200e35380', '5893a1df232ae10f19cc63ff3b62e0a7acb47e000c10a7fbc42e250638b35195');
INSERT INTO public.events VALUES (13, '2026-11-23 12:00:31', 'node', 'delivery', '1', 'DONE', 'SENDING', 'SENT', '{"status": "0x0000", "warning": false}', '5893a1df232ae10f19cc63ff3b62e0a7acb47e000c10a7fbc42e250638b35195', 'f25afe164032cd30e25b64416054bbe8180423a2eab51fdf74f53aea5dc06b13');
INSERT INTO public.events VALUES (14, '2026-11-23 12:00:31', 'node', 'series', '2', 'BORN', NULL, 'RECEIVING', '{"revision": 1, "study": "D3M-B6K"}', 'f25afe164032cd30e25b64416054bbe8180423a2eab51fdf74f53aea5dc06b13', 'b46062bdbfbfeec659cfdb8be557b62290641e0557f5fd29a5ec1a60c5ef6126');
INSERT INTO public.events VALUES (15, '2026-11-23 12:01:02', 'node', 'series', '2', 'CLOSED_WHOLE', 'RECEIVING', 'COMPLETE', '{"because": "quiet and whole", "reasons": []}', 'b46062bdbfbfeec659cfdb8be557b62290641e0557f5fd29a5ec1a60c5ef6126', '871fbcaaf5cb75a7a9f4ddfa01db740e7760ae55580380f99fe5cb83dd305169');
INSERT INTO public.events VALUES (16, '2026-11-23 12:01:02', 'node', 'series', '3', 'BORN', NULL, 'RECEIVING', '{"revision": 1, "study": "MV3-ZFJ"}', '871fbcaaf5cb75a7a9f4ddfa01db740e7760ae55580380f99fe5cb83dd305169', 'ee4c12507cc388755b3742c772653c98f7ce00382f17b53cd473d027f00159b3');
INSERT INTO public.instances VALUES (1, 1, 'a-1', '1.2.3.1', '1.2.840.10008.5.1.4.1.1.4', '1.2.840.10008.1.2.1', 'a976c26222063e3d243039616003971cd643e20afa706fd88bd3a532c1eaba59', 100, 'KEPT', '2026-11-23 12:00:00');
INSERT INTO public.instances VALUES (2, 1, 'a-1', '1.2.3.2', '1.2.840.10008.5.1.4.1.1.4', '1.2.840.10008.1.2.1', '992ae73e069e49abbda473b429d8fa0fd29967a372b8f52a381620b634c9e42a', 100, 'KEPT', '2026-11-23 12:00:00');
INSERT INTO public.instances VALUES (3, 1, 'a-1', '1.2.3.3', '1.2.840.10008.5.1.4.1.1.4', '1.2.840.10008.1.2.1', '68c827f98609f46e4a53383a3fe43e1a89f709c306262fc724d98f9e57e4508a', 100, 'KEPT', '2026-11-23 12:00:00');
INSERT INTO public.instances VALUES (4, 2, 'a-1+', '1.2.4.1', '1.2.840.10008.5.1.4.1.1.4', '1.2.840.10008.1.2.1', '0b6e9f104aa1341fe71462a8052ecd9ecaeed3c2ee652447c0f5a08c3dd4786b', 100, 'KEPT', '2026-11-23 12:00:31');
INSERT INTO public.instances VALUES (5, 2, 'a-1+', '1.2.4.2', '1.2.840.10008.5.1.4.1.1.4', '1.2.840.10008.1.2.1', 'a78f74dc7ac97130f4a93d2cd2adb8b7dc9af4caba8928af3a9ca43d7bc72063', 100, 'KEPT', '2026-11-23 12:00:31');
INSERT INTO public.instances VALUES (6, 2, 'a-1+', '1.2.4.3', '1.2.840.10008.5.1.4.1.1.4', '1.2.840.10008.1.2.1', '8357c87217e268d7fbd67bb147dbbdc67385a56be52bee0125c20e3d43627dc8', 100, 'KEPT', '2026-11-23 12:00:31');
INSERT INTO public.instances VALUES (7, 3, 'a-1++', '1.2.5.0', '1.2.840.10008.5.1.4.1.1.4', '1.2.840.10008.1.2.1', '961e7981c6616b0d72cfa9472cf8f424aa4761cde5959c81bc872d49fd917524', 100, 'KEPT', '2026-11-23 12:01:02');
INSERT INTO public.instances VALUES (8, 3, 'a-1++', '1.2.5.1', '1.2.840.10008.5.1.4.1.1.4', '1.2.840.10008.1.2.1', 'aeb1ba05aa8b347c1555a36f08db8c7946a788455b32d488d3fb08f3f6ab8686', 100, 'KEPT', '2026-11-23 12:01:02');
INSERT INTO public.jobs VALUES (1, 1, 'cf9ec1cbbbbe63fff5be768343e3c7e2668c8e459dc1b1c6e14c5f1e2eb3e366', 1, '921d55dd8978fda9babd736d6ffd45671770906586dcb2d6a24aa9fc53dd178f', 'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb', 'bundle 1', 'ssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssss', 'the called AE title is meant for NPC', 'WRITTEN', '[]', true, '2026-11-23 12:00:31', '{"stage": "T2", "synthetic": true, "phantom": true}', '2026-11-23 12:00:31', '2026-11-23 12:00:31', '2026-11-23 12:00:31', 1, 0, NULL, NULL, NULL);
INSERT INTO public.objects VALUES (1, 1, 'RTSTRUCT', '1.2.840.1', '2.25.34832880111', '1111111111111111111111111111111111111111111111111111111111111111', 1, '2026-11-23 12:00:31', 0, '');
INSERT INTO public.objects VALUES (2, 1, 'SR', '1.2.840.2', '2.25.34832880112', '2222222222222222222222222222222222222222222222222222222222222222', 1, '2026-11-23 12:00:31', 0, '');
INSERT INTO public.series VALUES (1, 1, '1.2.3', 1, 'MR', 'NPC_RTNODE', 'SELECTED', '[]', NULL, '[]', 0, 'a-1', '2026-11-23 12:00:00', '2026-11-23 12:00:00', NULL, '2026-11-23 12:00:31', 'quiet and whole', '921d55dd8978fda9babd736d6ffd45671770906586dcb2d6a24aa9fc53dd178f', 'rrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrr');
INSERT INTO public.series VALUES (2, 1, '1.2.4', 1, 'MR', 'NPC_RTNODE', 'COMPLETE', '[]', NULL, '[]', 0, 'a-1+', '2026-11-23 12:00:31', '2026-11-23 12:00:31', NULL, '2026-11-23 12:01:02', 'quiet and whole', '9e6925666677483578c24f9cb5726ed8f7fa74bc5e887b00690f9e92c5f1b557', NULL);
INSERT INTO public.series VALUES (3, 2, '1.2.5', 1, 'MR', 'NPC_RTNODE', 'RECEIVING', '[]', NULL, '[]', 0, 'a-1++', '2026-11-23 12:01:02', '2026-11-23 12:01:02', '2026-11-23 12:01:32', NULL, NULL, NULL, NULL);
INSERT INTO public.studies VALUES (1, '1.2', 'D3M-B6K', '2026-11-23 12:00:00', NULL);
INSERT INTO public.studies VALUES (2, '1.9', 'MV3-ZFJ', '2026-11-23 12:01:02', NULL);
INSERT INTO public.verdicts VALUES (1, 1, 'modality', 'TRUE', 'Modality is MR', '2026-11-23 12:00:31');
SELECT pg_catalog.setval('public.attempts_id_seq', 3, true);
SELECT pg_catalog.setval('public.deliveries_id_seq', 3, true);
SELECT pg_catalog.setval('public.events_seq_seq', 16, true);
SELECT pg_catalog.setval('public.instances_id_seq', 8, true);
SELECT pg_catalog.setval('public.jobs_id_seq', 1, true);
SELECT pg_catalog.setval('public.objects_id_seq', 2, true);
SELECT pg_catalog.setval('public.removals_id_seq', 1, false);
SELECT pg_catalog.setval('public.series_id_seq', 3, true);
SELECT pg_catalog.setval('public.studies_id_seq', 2, true);
SELECT pg_catalog.setval('public.verdicts_id_seq', 1, true);
ALTER TABLE ONLY public.alembic_version
    ADD CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num);
ALTER TABLE ONLY public.associations
    ADD CONSTRAINT pk_associations PRIMARY KEY (id);
ALTER TABLE ONLY public.attempts
    ADD CONSTRAINT pk_attempts PRIMARY KEY (id);
ALTER TABLE ONLY public.deliveries
    ADD CONSTRAINT pk_deliveries PRIMARY KEY (id);
ALTER TABLE ONLY public.events
    ADD CONSTRAINT pk_events PRIMARY KEY (seq);
ALTER TABLE ONLY public.instances
    ADD CONSTRAINT pk_instances PRIMARY KEY (id);
ALTER TABLE ONLY public.jobs
    ADD CONSTRAINT pk_jobs PRIMARY KEY (id);
ALTER TABLE ONLY public.objects
    ADD CONSTRAINT pk_objects PRIMARY KEY (id);
ALTER TABLE ONLY public.removals
    ADD CONSTRAINT pk_removals PRIMARY KEY (id);
ALTER TABLE ONLY public.series
    ADD CONSTRAINT pk_series PRIMARY KEY (id);
ALTER TABLE ONLY public.studies
    ADD CONSTRAINT pk_studies PRIMARY KEY (id);
ALTER TABLE ONLY public.verdicts
    ADD CONSTRAINT pk_verdicts PRIMARY KEY (id);
ALTER TABLE ONLY public.attempts
    ADD CONSTRAINT uq_attempts_lease_token UNIQUE (lease_token);
ALTER TABLE ONLY public.deliveries
    ADD CONSTRAINT uq_deliveries_object_id_destination UNIQUE (object_id, destination);
ALTER TABLE ONLY public.instances
    ADD CONSTRAINT uq_instances_sop_uid_sha256 UNIQUE (sop_uid, sha256);
ALTER TABLE ONLY public.jobs
    ADD CONSTRAINT uq_jobs_work_key UNIQUE (work_key);
ALTER TABLE ONLY public.objects
    ADD CONSTRAINT uq_objects_job_id_kind_variant UNIQUE (job_id, kind, variant);
ALTER TABLE ONLY public.objects
    ADD CONSTRAINT uq_objects_sop_uid UNIQUE (sop_uid);
ALTER TABLE ONLY public.series
    ADD CONSTRAINT uq_series_series_uid_revision UNIQUE (series_uid, revision);
ALTER TABLE ONLY public.studies
    ADD CONSTRAINT uq_studies_reference UNIQUE (reference);
ALTER TABLE ONLY public.studies
    ADD CONSTRAINT uq_studies_study_uid UNIQUE (study_uid);
CREATE INDEX ix_attempts_subject ON public.attempts USING btree (subject, subject_id);
CREATE INDEX ix_deliveries_due ON public.deliveries USING btree (state, due_at);
CREATE INDEX ix_deliveries_object_id ON public.deliveries USING btree (object_id);
CREATE INDEX ix_events_subject ON public.events USING btree (subject, subject_id);
CREATE INDEX ix_instances_series_id ON public.instances USING btree (series_id);
CREATE INDEX ix_jobs_due ON public.jobs USING btree (state, due_at);
CREATE INDEX ix_jobs_series_id ON public.jobs USING btree (series_id);
CREATE INDEX ix_objects_job_id ON public.objects USING btree (job_id);
CREATE INDEX ix_removals_file ON public.removals USING btree (place, name);
CREATE INDEX ix_removals_series_id ON public.removals USING btree (series_id);
CREATE INDEX ix_series_open ON public.series USING btree (state, due_at);
CREATE INDEX ix_series_series_uid ON public.series USING btree (series_uid);
CREATE INDEX ix_series_study_id ON public.series USING btree (study_id);
CREATE INDEX ix_verdicts_series_id ON public.verdicts USING btree (series_id);
ALTER TABLE ONLY public.deliveries
    ADD CONSTRAINT fk_deliveries_object_id FOREIGN KEY (object_id) REFERENCES public.objects(id);
ALTER TABLE ONLY public.instances
    ADD CONSTRAINT fk_instances_association_id FOREIGN KEY (association_id) REFERENCES public.associations(id);
ALTER TABLE ONLY public.instances
    ADD CONSTRAINT fk_instances_series_id FOREIGN KEY (series_id) REFERENCES public.series(id);
ALTER TABLE ONLY public.jobs
    ADD CONSTRAINT fk_jobs_series_id FOREIGN KEY (series_id) REFERENCES public.series(id);
ALTER TABLE ONLY public.objects
    ADD CONSTRAINT fk_objects_job_id FOREIGN KEY (job_id) REFERENCES public.jobs(id);
ALTER TABLE ONLY public.removals
    ADD CONSTRAINT fk_removals_series_id FOREIGN KEY (series_id) REFERENCES public.series(id);
ALTER TABLE ONLY public.series
    ADD CONSTRAINT fk_series_last_association_id FOREIGN KEY (last_association_id) REFERENCES public.associations(id);
ALTER TABLE ONLY public.series
    ADD CONSTRAINT fk_series_study_id FOREIGN KEY (study_id) REFERENCES public.studies(id);
ALTER TABLE ONLY public.verdicts
    ADD CONSTRAINT fk_verdicts_series_id FOREIGN KEY (series_id) REFERENCES public.series(id);
