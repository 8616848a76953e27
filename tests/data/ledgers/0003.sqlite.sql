BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0003');
CREATE TABLE associations (
	id VARCHAR(36) NOT NULL, 
	calling_ae VARCHAR(64) NOT NULL, 
	called_ae VARCHAR(64) NOT NULL, 
	peer_ip VARCHAR(45) NOT NULL, 
	opened_at DATETIME NOT NULL, 
	ended_at DATETIME, 
	how VARCHAR(200), 
	last_series_id INTEGER, 
	refused JSON NOT NULL, 
	CONSTRAINT pk_associations PRIMARY KEY (id)
);
INSERT INTO "associations" VALUES('a-1','PACS','NPC_RTNODE','127.0.0.1','2026-11-23 12:00:00.000000','2026-11-23 12:00:00.000000','released',1,'[]');
INSERT INTO "associations" VALUES('a-1+','PACS','NPC_RTNODE','127.0.0.1','2026-11-23 12:00:00.000000','2026-11-23 12:00:31.000000','released',2,'[]');
INSERT INTO "associations" VALUES('a-1++','PACS','NPC_RTNODE','127.0.0.1','2026-11-23 12:00:31.000000',NULL,NULL,3,'[]');
CREATE TABLE attempts (
	id INTEGER NOT NULL, 
	subject VARCHAR(16) NOT NULL, 
	subject_id INTEGER NOT NULL, 
	stage VARCHAR(16) NOT NULL, 
	lease_token VARCHAR(36) NOT NULL, 
	started_at DATETIME NOT NULL, 
	ended_at DATETIME, 
	outcome VARCHAR(16), 
	detail TEXT, 
	CONSTRAINT pk_attempts PRIMARY KEY (id), 
	CONSTRAINT uq_attempts_lease_token UNIQUE (lease_token)
);
INSERT INTO "attempts" VALUES(1,'job',1,'infer','6dbee203-989f-4e29-babe-8c7ad25a600b','2026-11-23 12:00:31.000000','2026-11-23 12:00:31.000000','DONE',NULL);
INSERT INTO "attempts" VALUES(2,'job',1,'write','3decfa85-56c6-449f-979f-faac391d6b9f','2026-11-23 12:00:31.000000','2026-11-23 12:00:31.000000','DONE',NULL);
INSERT INTO "attempts" VALUES(3,'delivery',1,'deliver','cd1bf30b-5d46-4c75-9d0c-a9eaaab67b98','2026-11-23 12:00:31.000000','2026-11-23 12:00:31.000000','DONE',NULL);
CREATE TABLE deliveries (
	id INTEGER NOT NULL, 
	object_id INTEGER NOT NULL, 
	destination VARCHAR(32) NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	status INTEGER, 
	warning BOOLEAN NOT NULL, 
	sent_at DATETIME, 
	due_at DATETIME NOT NULL, 
	first_due_at DATETIME NOT NULL, 
	attempts INTEGER NOT NULL, 
	crashes INTEGER NOT NULL, 
	lease_token VARCHAR(36), 
	lease_until DATETIME, 
	last_error TEXT, 
	CONSTRAINT pk_deliveries PRIMARY KEY (id), 
	CONSTRAINT fk_deliveries_object_id FOREIGN KEY(object_id) REFERENCES objects (id), 
	CONSTRAINT uq_deliveries_object_id_destination UNIQUE (object_id, destination)
);
INSERT INTO "deliveries" VALUES(1,1,'tps','SENT',0,0,'2026-11-23 12:00:31.000000','2026-11-23 12:00:31.000000','2026-11-23 12:00:31.000000',1,0,NULL,NULL,NULL);
INSERT INTO "deliveries" VALUES(2,1,'pacs','PENDING',NULL,0,NULL,'2026-11-23 12:00:31.000000','2026-11-23 12:00:31.000000',0,0,NULL,NULL,NULL);
INSERT INTO "deliveries" VALUES(3,2,'pacs','PENDING',NULL,0,NULL,'2026-11-23 12:00:31.000000','2026-11-23 12:00:31.000000',0,0,NULL,NULL,NULL);
CREATE TABLE events (
	seq INTEGER NOT NULL, 
	at DATETIME NOT NULL, 
	actor VARCHAR(64) DEFAULT 'node' NOT NULL, 
	subject VARCHAR(16) NOT NULL, 
	subject_id VARCHAR(64) NOT NULL, 
	event VARCHAR(32) NOT NULL, 
	from_state VARCHAR(16), 
	to_state VARCHAR(16), 
	detail JSON NOT NULL, 
	previous_hash VARCHAR(64) NOT NULL, 
	hash VARCHAR(64) NOT NULL, 
	CONSTRAINT pk_events PRIMARY KEY (seq)
);
INSERT INTO "events" VALUES(1,'2026-11-23 12:00:00.000000','node','series','1','BORN',NULL,'RECEIVING','{"revision": 1, "study": "D3M-B6K"}','0000000000000000000000000000000000000000000000000000000000000000','17c0faab93aeeaee106f384161339595f4e5863fec0a96c1a9c821df7b5df167');
INSERT INTO "events" VALUES(2,'2026-11-23 12:00:31.000000','node','series','1','CLOSED_WHOLE','RECEIVING','COMPLETE','{"because": "quiet and whole", "reasons": []}','17c0faab93aeeaee106f384161339595f4e5863fec0a96c1a9c821df7b5df167','d41643d8c09f710ad4662068185d84daafbc0f497aa532016c7b532ff1ddb3a1');
INSERT INTO "events" VALUES(3,'2026-11-23 12:00:31.000000','node','series','1','SELECTED','COMPLETE','SELECTED','{"rules": "rrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrr", "reasons": []}','d41643d8c09f710ad4662068185d84daafbc0f497aa532016c7b532ff1ddb3a1','1a13eb0e953c293e6338eeb49ae9d326a46e81ca1ccf397f49640e2c68ba9f6c');
INSERT INTO "events" VALUES(4,'2026-11-23 12:00:31.000000','node','job','1','BORN',NULL,'QUEUED','{"work_key": "cf9ec1cbbbbe63fff5be768343e3c7e2668c8e459dc1b1c6e14c5f1e2eb3e366", "result_revision": 1}','1a13eb0e953c293e6338eeb49ae9d326a46e81ca1ccf397f49640e2c68ba9f6c','5e681ac576b4d11a8be246a2ba21b44d8ac78c67a34f884099a430b0b5e4a65d');
INSERT INTO "events" VALUES(5,'2026-11-23 12:00:31.000000','node','job','1','BEGUN','QUEUED','PREDICTING','{"attempt": 1}','5e681ac576b4d11a8be246a2ba21b44d8ac78c67a34f884099a430b0b5e4a65d','a128772747d42bcbd14e94afa944a2ab726d1857ad922c10d192329099a1ace5');
INSERT INTO "events" VALUES(6,'2026-11-23 12:00:31.000000','node','job','1','DONE','PREDICTING','PREDICTED','{}','a128772747d42bcbd14e94afa944a2ab726d1857ad922c10d192329099a1ace5','da8fac6c070ef5bb8f4d208395158baee975bc2073745f11e3bd948a42310806');
INSERT INTO "events" VALUES(7,'2026-11-23 12:00:31.000000','node','job','1','BEGUN','PREDICTED','WRITING','{"attempt": 1}','da8fac6c070ef5bb8f4d208395158baee975bc2073745f11e3bd948a42310806','f0416469864c5cafd44d07785925e3de07ca50f2c879ae8c208407e4a6bb883d');
INSERT INTO "events" VALUES(8,'2026-11-23 12:00:31.000000','node','delivery','1','BORN',NULL,'PENDING','{"destination": "tps", "kind": "RTSTRUCT"}','f0416469864c5cafd44d07785925e3de07ca50f2c879ae8c208407e4a6bb883d','96265b76d19cbc44ebf6f214d13c0ba13ee9907cfb4ad5c8155627160a98b255');
INSERT INTO "events" VALUES(9,'2026-11-23 12:00:31.000000','node','delivery','2','BORN',NULL,'PENDING','{"destination": "pacs", "kind": "RTSTRUCT"}','96265b76d19cbc44ebf6f214d13c0ba13ee9907cfb4ad5c8155627160a98b255','82fa401f524f396f0a6dc150e46b1229d6fd3d7839754769eaf4d80891ea80c8');
INSERT INTO "events" VALUES(10,'2026-11-23 12:00:31.000000','node','delivery','3','BORN',NULL,'PENDING','{"destination": "pacs", "kind": "SR"}','82fa401f524f396f0a6dc150e46b1229d6fd3d7839754769eaf4d80891ea80c8','cb464e58f5702f6599bdbb33b0c1336322ddcc9db1e2d10b2b17d718563209bc');
INSERT INTO "events" VALUES(11,'2026-11-23 12:00:31.000000','node','job','1','DONE','WRITING','WRITTEN','{"reasons": []}','cb464e58f5702f6599bdbb33b0c1336322ddcc9db1e2d10b2b17d718563209bc','d1fccc786bddbb2fc6113bc732d59ec320e97c2f13fc6f3606baeed200e35380');
INSERT INTO "events" VALUES(12,'2026-11-23 12:00:31.000000','node','delivery','1','BEGUN','PENDING','SENDING','{"attempt": 1}','d1fccc786bddbb2fc6113bc732d59ec320e97c2f13fc6f3606baeed200e35380','5893a1df232ae10f19cc63ff3b62e0a7acb47e000c10a7fbc42e250638b35195');
INSERT INTO "events" VALUES(13,'2026-11-23 12:00:31.000000','node','delivery','1','DONE','SENDING','SENT','{"status": "0x0000", "warning": false}','5893a1df232ae10f19cc63ff3b62e0a7acb47e000c10a7fbc42e250638b35195','f25afe164032cd30e25b64416054bbe8180423a2eab51fdf74f53aea5dc06b13');
INSERT INTO "events" VALUES(14,'2026-11-23 12:00:31.000000','node','series','2','BORN',NULL,'RECEIVING','{"revision": 1, "study": "D3M-B6K"}','f25afe164032cd30e25b64416054bbe8180423a2eab51fdf74f53aea5dc06b13','b46062bdbfbfeec659cfdb8be557b62290641e0557f5fd29a5ec1a60c5ef6126');
INSERT INTO "events" VALUES(15,'2026-11-23 12:01:02.000000','node','series','2','CLOSED_WHOLE','RECEIVING','COMPLETE','{"because": "quiet and whole", "reasons": []}','b46062bdbfbfeec659cfdb8be557b62290641e0557f5fd29a5ec1a60c5ef6126','871fbcaaf5cb75a7a9f4ddfa01db740e7760ae55580380f99fe5cb83dd305169');
INSERT INTO "events" VALUES(16,'2026-11-23 12:01:02.000000','node','series','3','BORN',NULL,'RECEIVING','{"revision": 1, "study": "MV3-ZFJ"}','871fbcaaf5cb75a7a9f4ddfa01db740e7760ae55580380f99fe5cb83dd305169','ee4c12507cc388755b3742c772653c98f7ce00382f17b53cd473d027f00159b3');
CREATE TABLE instances (
	id INTEGER NOT NULL, 
	series_id INTEGER NOT NULL, 
	association_id VARCHAR(36) NOT NULL, 
	sop_uid VARCHAR(64) NOT NULL, 
	sop_class_uid VARCHAR(64) NOT NULL, 
	transfer_syntax_uid VARCHAR(64) NOT NULL, 
	sha256 VARCHAR(64) NOT NULL, 
	size INTEGER NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	received_at DATETIME NOT NULL, 
	CONSTRAINT pk_instances PRIMARY KEY (id), 
	CONSTRAINT fk_instances_association_id FOREIGN KEY(association_id) REFERENCES associations (id), 
	CONSTRAINT fk_instances_series_id FOREIGN KEY(series_id) REFERENCES series (id), 
	CONSTRAINT uq_instances_sop_uid_sha256 UNIQUE (sop_uid, sha256)
);
INSERT INTO "instances" VALUES(1,1,'a-1','1.2.3.1','1.2.840.10008.5.1.4.1.1.4','1.2.840.10008.1.2.1','a976c26222063e3d243039616003971cd643e20afa706fd88bd3a532c1eaba59',100,'KEPT','2026-11-23 12:00:00.000000');
INSERT INTO "instances" VALUES(2,1,'a-1','1.2.3.2','1.2.840.10008.5.1.4.1.1.4','1.2.840.10008.1.2.1','992ae73e069e49abbda473b429d8fa0fd29967a372b8f52a381620b634c9e42a',100,'KEPT','2026-11-23 12:00:00.000000');
INSERT INTO "instances" VALUES(3,1,'a-1','1.2.3.3','1.2.840.10008.5.1.4.1.1.4','1.2.840.10008.1.2.1','68c827f98609f46e4a53383a3fe43e1a89f709c306262fc724d98f9e57e4508a',100,'KEPT','2026-11-23 12:00:00.000000');
INSERT INTO "instances" VALUES(4,2,'a-1+','1.2.4.1','1.2.840.10008.5.1.4.1.1.4','1.2.840.10008.1.2.1','0b6e9f104aa1341fe71462a8052ecd9ecaeed3c2ee652447c0f5a08c3dd4786b',100,'KEPT','2026-11-23 12:00:31.000000');
INSERT INTO "instances" VALUES(5,2,'a-1+','1.2.4.2','1.2.840.10008.5.1.4.1.1.4','1.2.840.10008.1.2.1','a78f74dc7ac97130f4a93d2cd2adb8b7dc9af4caba8928af3a9ca43d7bc72063',100,'KEPT','2026-11-23 12:00:31.000000');
INSERT INTO "instances" VALUES(6,2,'a-1+','1.2.4.3','1.2.840.10008.5.1.4.1.1.4','1.2.840.10008.1.2.1','8357c87217e268d7fbd67bb147dbbdc67385a56be52bee0125c20e3d43627dc8',100,'KEPT','2026-11-23 12:00:31.000000');
INSERT INTO "instances" VALUES(7,3,'a-1++','1.2.5.0','1.2.840.10008.5.1.4.1.1.4','1.2.840.10008.1.2.1','961e7981c6616b0d72cfa9472cf8f424aa4761cde5959c81bc872d49fd917524',100,'KEPT','2026-11-23 12:01:02.000000');
INSERT INTO "instances" VALUES(8,3,'a-1++','1.2.5.1','1.2.840.10008.5.1.4.1.1.4','1.2.840.10008.1.2.1','aeb1ba05aa8b347c1555a36f08db8c7946a788455b32d488d3fb08f3f6ab8686',100,'KEPT','2026-11-23 12:01:02.000000');
CREATE TABLE jobs (
	id INTEGER NOT NULL, 
	series_id INTEGER NOT NULL, 
	work_key VARCHAR(64) NOT NULL, 
	result_revision INTEGER NOT NULL, 
	input_digest VARCHAR(64) NOT NULL, 
	bundle_hash VARCHAR(64) NOT NULL, 
	bundle_name VARCHAR(128) NOT NULL, 
	settings_hash VARCHAR(64) NOT NULL, 
	indication TEXT NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	reasons JSON NOT NULL, 
	releasable BOOLEAN NOT NULL, 
	content_at DATETIME NOT NULL, 
	results JSON NOT NULL, 
	created_at DATETIME NOT NULL, 
	due_at DATETIME NOT NULL, 
	first_due_at DATETIME NOT NULL, 
	attempts INTEGER NOT NULL, 
	crashes INTEGER NOT NULL, 
	lease_token VARCHAR(36), 
	lease_until DATETIME, 
	last_error TEXT, 
	CONSTRAINT pk_jobs PRIMARY KEY (id), 
	CONSTRAINT fk_jobs_series_id FOREIGN KEY(series_id) REFERENCES series (id), 
	CONSTRAINT uq_jobs_work_key UNIQUE (work_key)
);
INSERT INTO "jobs" VALUES(1,1,'cf9ec1cbbbbe63fff5be768343e3c7e2668c8e459dc1b1c6e14c5f1e2eb3e366',1,'921d55dd8978fda9babd736d6ffd45671770906586dcb2d6a24aa9fc53dd178f','bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb','bundle 1','ssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssss','the called AE title is meant for NPC','WRITTEN','[]',1,'2026-11-23 12:00:31.000000','{"stage": "T2", "synthetic": true, "phantom": true}','2026-11-23 12:00:31.000000','2026-11-23 12:00:31.000000','2026-11-23 12:00:31.000000',1,0,NULL,NULL,NULL);
CREATE TABLE "objects" (
	id INTEGER NOT NULL, 
	job_id INTEGER NOT NULL, 
	kind VARCHAR(16) NOT NULL, 
	sop_class_uid VARCHAR(64) NOT NULL, 
	sop_uid VARCHAR(64) NOT NULL, 
	sha256 VARCHAR(64) NOT NULL, 
	size INTEGER NOT NULL, 
	created_at DATETIME NOT NULL, 
	came_back INTEGER NOT NULL, 
	variant VARCHAR(16) DEFAULT '' NOT NULL, 
	CONSTRAINT pk_objects PRIMARY KEY (id), 
	CONSTRAINT uq_objects_sop_uid UNIQUE (sop_uid), 
	CONSTRAINT fk_objects_job_id FOREIGN KEY(job_id) REFERENCES jobs (id), 
	CONSTRAINT uq_objects_job_id_kind_variant UNIQUE (job_id, kind, variant)
);
INSERT INTO "objects" VALUES(1,1,'RTSTRUCT','1.2.840.1','2.25.34832880111','1111111111111111111111111111111111111111111111111111111111111111',1,'2026-11-23 12:00:31.000000',0,'');
INSERT INTO "objects" VALUES(2,1,'SR','1.2.840.2','2.25.34832880112','2222222222222222222222222222222222222222222222222222222222222222',1,'2026-11-23 12:00:31.000000',0,'');
CREATE TABLE removals (
	id INTEGER NOT NULL, 
	series_id INTEGER NOT NULL, 
	place VARCHAR(16) NOT NULL, 
	name VARCHAR(64) NOT NULL, 
	size INTEGER NOT NULL, 
	removed_at DATETIME NOT NULL, 
	actor VARCHAR(64) NOT NULL, 
	reason TEXT NOT NULL, 
	restored_at DATETIME, 
	CONSTRAINT pk_removals PRIMARY KEY (id), 
	CONSTRAINT fk_removals_series_id FOREIGN KEY(series_id) REFERENCES series (id)
);
CREATE TABLE series (
	id INTEGER NOT NULL, 
	study_id INTEGER NOT NULL, 
	series_uid VARCHAR(64) NOT NULL, 
	revision INTEGER NOT NULL, 
	modality VARCHAR(16) NOT NULL, 
	called_ae VARCHAR(16) NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	reasons JSON NOT NULL, 
	operators_word TEXT, 
	waived JSON NOT NULL, 
	troubles INTEGER NOT NULL, 
	last_association_id VARCHAR(36) NOT NULL, 
	first_received_at DATETIME NOT NULL, 
	last_received_at DATETIME NOT NULL, 
	due_at DATETIME, 
	closed_at DATETIME, 
	closed_because TEXT, 
	input_digest VARCHAR(64), 
	rules_hash VARCHAR(64), 
	CONSTRAINT pk_series PRIMARY KEY (id), 
	CONSTRAINT fk_series_last_association_id FOREIGN KEY(last_association_id) REFERENCES associations (id), 
	CONSTRAINT fk_series_study_id FOREIGN KEY(study_id) REFERENCES studies (id), 
	CONSTRAINT uq_series_series_uid_revision UNIQUE (series_uid, revision)
);
INSERT INTO "series" VALUES(1,1,'1.2.3',1,'MR','NPC_RTNODE','SELECTED','[]',NULL,'[]',0,'a-1','2026-11-23 12:00:00.000000','2026-11-23 12:00:00.000000',NULL,'2026-11-23 12:00:31.000000','quiet and whole','921d55dd8978fda9babd736d6ffd45671770906586dcb2d6a24aa9fc53dd178f','rrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrr');
INSERT INTO "series" VALUES(2,1,'1.2.4',1,'MR','NPC_RTNODE','COMPLETE','[]',NULL,'[]',0,'a-1+','2026-11-23 12:00:31.000000','2026-11-23 12:00:31.000000',NULL,'2026-11-23 12:01:02.000000','quiet and whole','9e6925666677483578c24f9cb5726ed8f7fa74bc5e887b00690f9e92c5f1b557',NULL);
INSERT INTO "series" VALUES(3,2,'1.2.5',1,'MR','NPC_RTNODE','RECEIVING','[]',NULL,'[]',0,'a-1++','2026-11-23 12:01:02.000000','2026-11-23 12:01:02.000000','2026-11-23 12:01:32.000000',NULL,NULL,NULL,NULL);
CREATE TABLE studies (
	id INTEGER NOT NULL, 
	study_uid VARCHAR(64) NOT NULL, 
	reference VARCHAR(16) NOT NULL, 
	first_received_at DATETIME NOT NULL, 
	hold TEXT, 
	CONSTRAINT pk_studies PRIMARY KEY (id), 
	CONSTRAINT uq_studies_reference UNIQUE (reference), 
	CONSTRAINT uq_studies_study_uid UNIQUE (study_uid)
);
INSERT INTO "studies" VALUES(1,'1.2','D3M-B6K','2026-11-23 12:00:00.000000',NULL);
INSERT INTO "studies" VALUES(2,'1.9','MV3-ZFJ','2026-11-23 12:01:02.000000',NULL);
CREATE TABLE verdicts (
	id INTEGER NOT NULL, 
	series_id INTEGER NOT NULL, 
	rule VARCHAR(200) NOT NULL, 
	truth VARCHAR(8) NOT NULL, 
	because TEXT NOT NULL, 
	at DATETIME NOT NULL, 
	CONSTRAINT pk_verdicts PRIMARY KEY (id), 
	CONSTRAINT fk_verdicts_series_id FOREIGN KEY(series_id) REFERENCES series (id)
);
INSERT INTO "verdicts" VALUES(1,1,'modality','TRUE','Modality is MR','2026-11-23 12:00:31.000000');
CREATE INDEX ix_attempts_subject ON attempts (subject, subject_id);
CREATE INDEX ix_events_subject ON events (subject, subject_id);
CREATE INDEX ix_series_open ON series (state, due_at);
CREATE INDEX ix_series_series_uid ON series (series_uid);
CREATE INDEX ix_series_study_id ON series (study_id);
CREATE INDEX ix_instances_series_id ON instances (series_id);
CREATE INDEX ix_jobs_due ON jobs (state, due_at);
CREATE INDEX ix_jobs_series_id ON jobs (series_id);
CREATE INDEX ix_verdicts_series_id ON verdicts (series_id);
CREATE INDEX ix_deliveries_due ON deliveries (state, due_at);
CREATE INDEX ix_deliveries_object_id ON deliveries (object_id);
CREATE INDEX ix_objects_job_id ON objects (job_id);
CREATE INDEX ix_removals_file ON removals (place, name);
CREATE INDEX ix_removals_series_id ON removals (series_id);
COMMIT;
