BEGIN TRANSACTION;
CREATE TABLE addresses (
	zone_uuid VARCHAR(32) NOT NULL, 
	address VARCHAR(64) NOT NULL, 
	instance_uuid VARCHAR(32) NOT NULL, 
	attempt INTEGER NOT NULL, 
	CONSTRAINT pk_addresses PRIMARY KEY (zone_uuid, address), 
	CONSTRAINT uq_addresses_instance_uuid_attempt UNIQUE (instance_uuid, attempt)
);
INSERT INTO "addresses" VALUES('7a007a391d483c9f843bf1df4b7e5d8f','10.9.0.10','4c4d5201845a579091b12d758451bd10',1);
INSERT INTO "addresses" VALUES('7a007a391d483c9f843bf1df4b7e5d8f','10.9.0.11','c78b4629e63a52a3afb86c5372e83aaf',1);
INSERT INTO "addresses" VALUES('7a007a391d483c9f843bf1df4b7e5d8f','10.9.0.12','6aaa99079b575520adb5ab1800598316',1);
INSERT INTO "addresses" VALUES('7a007a391d483c9f843bf1df4b7e5d8f','10.9.0.13','7d5a1cddb7685016a7b413c11c7d2889',1);
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0005');
CREATE TABLE audit (
	id INTEGER NOT NULL, 
	time BIGINT NOT NULL, 
	principal TEXT NOT NULL, 
	project TEXT NOT NULL, 
	method VARCHAR(64) NOT NULL, 
	subject TEXT NOT NULL, 
	request_id TEXT NOT NULL, 
	CONSTRAINT pk_audit PRIMARY KEY (id)
);
CREATE TABLE claims (
	instance_uuid VARCHAR(32) NOT NULL, 
	attempt INTEGER NOT NULL, 
	resource VARCHAR(64) NOT NULL, 
	host_uuid VARCHAR(32) NOT NULL, 
	group_uuid VARCHAR(32) NOT NULL, 
	amount BIGINT NOT NULL, 
	CONSTRAINT pk_claims PRIMARY KEY (instance_uuid, attempt, resource, host_uuid), 
	CONSTRAINT ck_claims_amount_positive CHECK (amount > 0), 
	CONSTRAINT fk_claims_host_uuid_hosts FOREIGN KEY(host_uuid) REFERENCES hosts (uuid)
);
INSERT INTO "claims" VALUES('4c4d5201845a579091b12d758451bd10',1,'memory','2be9cef1988a565da0486767ffecfc5f','757ad006d2a140a6afe5b41c99e632d9',1073741824);
INSERT INTO "claims" VALUES('4c4d5201845a579091b12d758451bd10',1,'vcpu','2be9cef1988a565da0486767ffecfc5f','757ad006d2a140a6afe5b41c99e632d9',1);
INSERT INTO "claims" VALUES('c78b4629e63a52a3afb86c5372e83aaf',1,'memory','65f34bc8bb425b67a9f9682c93cb168a','757ad006d2a140a6afe5b41c99e632d9',1073741824);
INSERT INTO "claims" VALUES('c78b4629e63a52a3afb86c5372e83aaf',1,'vcpu','65f34bc8bb425b67a9f9682c93cb168a','757ad006d2a140a6afe5b41c99e632d9',1);
INSERT INTO "claims" VALUES('6aaa99079b575520adb5ab1800598316',1,'memory','65f34bc8bb425b67a9f9682c93cb168a','757ad006d2a140a6afe5b41c99e632d9',1073741824);
INSERT INTO "claims" VALUES('6aaa99079b575520adb5ab1800598316',1,'vcpu','65f34bc8bb425b67a9f9682c93cb168a','757ad006d2a140a6afe5b41c99e632d9',1);
INSERT INTO "claims" VALUES('7d5a1cddb7685016a7b413c11c7d2889',1,'memory','65f34bc8bb425b67a9f9682c93cb168a','74fe21d8da8c4241903fe5ad6a34e552',1073741824);
INSERT INTO "claims" VALUES('7d5a1cddb7685016a7b413c11c7d2889',1,'vcpu','65f34bc8bb425b67a9f9682c93cb168a','74fe21d8da8c4241903fe5ad6a34e552',1);
CREATE TABLE counters (
	name VARCHAR(64) NOT NULL, 
	value BIGINT NOT NULL, 
	CONSTRAINT pk_counters PRIMARY KEY (name)
);
INSERT INTO "counters" VALUES('revision',58);
INSERT INTO "counters" VALUES('compacted_revision',58);
INSERT INTO "counters" VALUES('fleet_revision',7);
CREATE TABLE events (
	revision BIGINT NOT NULL, 
	group_uuid VARCHAR(32) NOT NULL, 
	sequence BIGINT NOT NULL, 
	kind VARCHAR(64) NOT NULL, 
	project TEXT NOT NULL, 
	time BIGINT NOT NULL, 
	body TEXT NOT NULL, 
	CONSTRAINT pk_events PRIMARY KEY (revision), 
	CONSTRAINT uq_events_group_uuid_sequence UNIQUE (group_uuid, sequence)
);
CREATE TABLE fleet_events (
	revision BIGINT NOT NULL, 
	kind VARCHAR(64) NOT NULL, 
	uuid VARCHAR(32) NOT NULL, 
	zone_uuid VARCHAR(32) NOT NULL, 
	time BIGINT NOT NULL, 
	CONSTRAINT pk_fleet_events PRIMARY KEY (revision)
);
CREATE TABLE groups (
	uuid VARCHAR(32) NOT NULL, 
	project TEXT NOT NULL, 
	principal TEXT NOT NULL, 
	name TEXT NOT NULL, 
	spec TEXT NOT NULL, 
	exclusive_hosts BOOLEAN NOT NULL, 
	phase VARCHAR(64) NOT NULL, 
	status VARCHAR(64) NOT NULL, 
	reason TEXT NOT NULL, 
	failure TEXT, 
	placement TEXT, 
	start_epoch INTEGER NOT NULL, 
	go BOOLEAN NOT NULL, 
	served BOOLEAN NOT NULL, 
	failures INTEGER NOT NULL, 
	retry_at BIGINT NOT NULL, 
	running_since BIGINT NOT NULL, 
	restarting BOOLEAN NOT NULL, 
	excluded_hosts TEXT NOT NULL, 
	sequence BIGINT NOT NULL, 
	version BIGINT NOT NULL, 
	revision BIGINT NOT NULL, 
	deadline_at BIGINT NOT NULL, 
	created_at BIGINT NOT NULL, 
	updated_at BIGINT NOT NULL, 
	owner TEXT NOT NULL, 
	epoch BIGINT NOT NULL, 
	lease_until BIGINT NOT NULL, 
	due_at BIGINT, 
	CONSTRAINT pk_groups PRIMARY KEY (uuid)
);
INSERT INTO "groups" VALUES('757ad006d2a140a6afe5b41c99e632d9','default','anonymous','runs','{"name":"runs","nodes":[{"name":"runs-0","model_service_uuid":"f1e135835fee363c9f57ed8232023886","zone_uuid":"7a007a391d483c9f843bf1df4b7e5d8f","cpu_num":1,"memory_size":1073741824,"type":"VirtualMachine","is_initial_node":true,"node_rank":0,"timeout_ms":300000,"tensor_parallel_size":0,"cluster_uuid":"","description":"","environment_variables":{},"startup_parameters":"","root_disk_size":0,"gpus":[],"labels":{},"model_service_version":1},{"name":"runs-1","model_service_uuid":"f1e135835fee363c9f57ed8232023886","zone_uuid":"7a007a391d483c9f843bf1df4b7e5d8f","cpu_num":1,"memory_size":1073741824,"type":"VirtualMachine","is_initial_node":false,"node_rank":1,"timeout_ms":300000,"tensor_parallel_size":0,"cluster_uuid":"","description":"","environment_variables":{},"startup_parameters":"","root_disk_size":0,"gpus":[],"labels":{},"model_service_version":1},{"name":"runs-2","model_service_uuid":"f1e135835fee363c9f57ed8232023886","zone_uuid":"7a007a391d483c9f843bf1df4b7e5d8f","cpu_num":1,"memory_size":1073741824,"type":"VirtualMachine","is_initial_node":false,"node_rank":2,"timeout_ms":300000,"tensor_parallel_size":0,"cluster_uuid":"","description":"","environment_variables":{},"startup_parameters":"","root_disk_size":0,"gpus":[],"labels":{},"model_service_version":1}],"creation_strategy":"parallel","description":"","system_tags":[],"user_tags":[],"tag_uuids":[],"failure_policy":"replace_member","failure_budget":3,"placement":{"strategy":"least_lost_value","max_per_host":0,"max_per_rack":0,"exclusive_hosts":false,"affinity_groups":[],"anti_affinity_groups":[]},"deadline_ms":0,"workers_first":false,"model_uuid":"","model_service_type":"VirtualMachine","support_metrics":[]}',0,'running','Running','',NULL,'{"assignments":[{"instance_uuid":"4c4d5201845a579091b12d758451bd10","rank":0,"name":"runs-0","host_uuid":"2be9cef1988a565da0486767ffecfc5f","host_name":"one","zone_uuid":"7a007a391d483c9f843bf1df4b7e5d8f","resources":{"vcpu":1,"memory":1073741824}},{"instance_uuid":"c78b4629e63a52a3afb86c5372e83aaf","rank":1,"name":"runs-1","host_uuid":"65f34bc8bb425b67a9f9682c93cb168a","host_name":"two","zone_uuid":"7a007a391d483c9f843bf1df4b7e5d8f","resources":{"vcpu":1,"memory":1073741824}},{"instance_uuid":"6aaa99079b575520adb5ab1800598316","rank":2,"name":"runs-2","host_uuid":"65f34bc8bb425b67a9f9682c93cb168a","host_name":"two","zone_uuid":"7a007a391d483c9f843bf1df4b7e5d8f","resources":{"vcpu":1,"memory":1073741824}}],"strategy":"least_lost_value","objective":132.0,"lower_bound":132.0,"upper_bound":132.0,"proof":"optimal","stage":"greedy","duration_ms":2074.944830000277,"claim_tries":1}',1,1,1,0,0,1795932095627,0,'[]',21,9,28,0,1795932092681,1795932095627,'',1,0,1795932105642);
INSERT INTO "groups" VALUES('74fe21d8da8c4241903fe5ad6a34e552','default','anonymous','rests','{"name":"rests","nodes":[{"name":"rests-0","model_service_uuid":"f1e135835fee363c9f57ed8232023886","zone_uuid":"7a007a391d483c9f843bf1df4b7e5d8f","cpu_num":1,"memory_size":1073741824,"type":"VirtualMachine","is_initial_node":true,"node_rank":0,"timeout_ms":300000,"tensor_parallel_size":0,"cluster_uuid":"","description":"","environment_variables":{},"startup_parameters":"","root_disk_size":0,"gpus":[],"labels":{},"model_service_version":1}],"creation_strategy":"parallel","description":"","system_tags":[],"user_tags":[],"tag_uuids":[],"failure_policy":"replace_member","failure_budget":3,"placement":{"strategy":"least_lost_value","max_per_host":0,"max_per_rack":0,"exclusive_hosts":false,"affinity_groups":[],"anti_affinity_groups":[]},"deadline_ms":0,"workers_first":false,"model_uuid":"","model_service_type":"VirtualMachine","support_metrics":[]}',0,'stopped','Stopped','',NULL,'{"assignments":[{"instance_uuid":"7d5a1cddb7685016a7b413c11c7d2889","rank":0,"name":"rests-0","host_uuid":"65f34bc8bb425b67a9f9682c93cb168a","host_name":"two","zone_uuid":"7a007a391d483c9f843bf1df4b7e5d8f","resources":{"vcpu":1,"memory":1073741824}}],"strategy":"least_lost_value","objective":44.0,"lower_bound":44.0,"upper_bound":44.0,"proof":"optimal","stage":"greedy","duration_ms":9.378400000059628,"claim_tries":1}',1,1,0,0,0,1795932095706,0,'[]',15,8,54,0,1795932095421,1795932096034,'',2,0,1795932106044);
INSERT INTO "groups" VALUES('3d6d2ef42b0a4d32aa5b37a892b539ac','default','anonymous','gone','{"name":"gone","nodes":[{"name":"gone-0","model_service_uuid":"f1e135835fee363c9f57ed8232023886","zone_uuid":"7a007a391d483c9f843bf1df4b7e5d8f","cpu_num":1,"memory_size":1073741824,"type":"VirtualMachine","is_initial_node":true,"node_rank":0,"timeout_ms":300000,"tensor_parallel_size":0,"cluster_uuid":"","description":"","environment_variables":{},"startup_parameters":"","root_disk_size":0,"gpus":[],"labels":{},"model_service_version":1}],"creation_strategy":"parallel","description":"","system_tags":[],"user_tags":[],"tag_uuids":[],"failure_policy":"replace_member","failure_budget":3,"placement":{"strategy":"least_lost_value","max_per_host":0,"max_per_rack":0,"exclusive_hosts":false,"affinity_groups":[],"anti_affinity_groups":[]},"deadline_ms":0,"workers_first":false,"model_uuid":"","model_service_type":"VirtualMachine","support_metrics":[]}',0,'deleted','Deleted','',NULL,'{"assignments":[{"instance_uuid":"58d6b5da583153d69b8b1a18124f7cfb","rank":0,"name":"gone-0","host_uuid":"65f34bc8bb425b67a9f9682c93cb168a","host_name":"two","zone_uuid":"7a007a391d483c9f843bf1df4b7e5d8f","resources":{"vcpu":1,"memory":1073741824}}],"strategy":"least_lost_value","objective":44.0,"lower_bound":44.0,"upper_bound":44.0,"proof":"optimal","stage":"greedy","duration_ms":33.76993500023673,"claim_tries":1}',1,1,1,0,0,1795932095949,0,'[]',15,8,58,0,1795932095685,1795932096182,'',2,0,NULL);
CREATE TABLE host_resources (
	host_uuid VARCHAR(32) NOT NULL, 
	resource VARCHAR(64) NOT NULL, 
	total BIGINT NOT NULL, 
	usable BIGINT NOT NULL, 
	foreign_used BIGINT NOT NULL, 
	used BIGINT NOT NULL, 
	CONSTRAINT pk_host_resources PRIMARY KEY (host_uuid, resource), 
	CONSTRAINT ck_host_resources_used_not_negative CHECK (used >= 0), 
	CONSTRAINT fk_host_resources_host_uuid FOREIGN KEY(host_uuid) REFERENCES hosts (uuid)
);
INSERT INTO "host_resources" VALUES('2be9cef1988a565da0486767ffecfc5f','memory',34359738368,33285996544,0,1073741824);
INSERT INTO "host_resources" VALUES('2be9cef1988a565da0486767ffecfc5f','vcpu',8,80,0,1);
INSERT INTO "host_resources" VALUES('65f34bc8bb425b67a9f9682c93cb168a','memory',34359738368,33285996544,0,3221225472);
INSERT INTO "host_resources" VALUES('65f34bc8bb425b67a9f9682c93cb168a','vcpu',8,80,0,3);
CREATE TABLE hosts (
	uuid VARCHAR(32) NOT NULL, 
	name TEXT NOT NULL, 
	zone_uuid VARCHAR(32) NOT NULL, 
	document TEXT NOT NULL, 
	state VARCHAR(64) NOT NULL, 
	status VARCHAR(64) NOT NULL, 
	status_reason TEXT NOT NULL, 
	boot_id TEXT NOT NULL, 
	virt_type VARCHAR(64) NOT NULL, 
	generation BIGINT NOT NULL, version BIGINT DEFAULT '1' NOT NULL, created_at BIGINT DEFAULT '0' NOT NULL, updated_at BIGINT DEFAULT '0' NOT NULL, configured TEXT DEFAULT '' NOT NULL, 
	CONSTRAINT pk_hosts PRIMARY KEY (uuid), 
	CONSTRAINT fk_hosts_zone_uuid FOREIGN KEY(zone_uuid) REFERENCES zones (uuid)
);
INSERT INTO "hosts" VALUES('2be9cef1988a565da0486767ffecfc5f','one','7a007a391d483c9f843bf1df4b7e5d8f','{"uuid":"2be9cef1988a565da0486767ffecfc5f","name":"one","zone_uuid":"7a007a391d483c9f843bf1df4b7e5d8f","address":{"driver":"simulated","transport":"unix","address":"","port":0,"socket":"","username":"","options":{"cpu":"8","memory":"32GiB","boot_ms":"50","state_file":"one.json"}},"machine_type":"VirtualMachine","rack":"","labels":{},"overcommit":{"ratios":{},"reserved":{}},"capacity_override":{},"bridge":"","state":"Enabled","status":"Connecting","status_reason":"","boot_id":"","total":{},"usable":{},"foreign":{},"used":{},"virt_type":"","description":"","cluster_uuid":"","version":0,"created_at":0,"updated_at":0}','Enabled','Connected','','simulated-1','simulated',2,1,1795932090499,1795932090499,'{"uuid":"2be9cef1988a565da0486767ffecfc5f","name":"one","zone_uuid":"7a007a391d483c9f843bf1df4b7e5d8f","address":{"driver":"simulated","transport":"unix","address":"","port":0,"socket":"","username":"","options":{"cpu":"8","memory":"32GiB","boot_ms":"50","state_file":"one.json"}},"machine_type":"VirtualMachine","rack":"","labels":{},"overcommit":{"ratios":{},"reserved":{}},"capacity_override":{},"bridge":"","state":"Enabled","status":"Connecting","status_reason":"","boot_id":"","total":{},"usable":{},"foreign":{},"used":{},"virt_type":"","description":"","cluster_uuid":"","version":0,"created_at":0,"updated_at":0}');
INSERT INTO "hosts" VALUES('65f34bc8bb425b67a9f9682c93cb168a','two','7a007a391d483c9f843bf1df4b7e5d8f','{"uuid":"65f34bc8bb425b67a9f9682c93cb168a","name":"two","zone_uuid":"7a007a391d483c9f843bf1df4b7e5d8f","address":{"driver":"simulated","transport":"unix","address":"","port":0,"socket":"","username":"","options":{"cpu":"8","memory":"32GiB","boot_ms":"50","state_file":"two.json"}},"machine_type":"VirtualMachine","rack":"","labels":{},"overcommit":{"ratios":{},"reserved":{}},"capacity_override":{},"bridge":"","state":"Enabled","status":"Connecting","status_reason":"","boot_id":"","total":{},"usable":{},"foreign":{},"used":{},"virt_type":"","description":"","cluster_uuid":"","version":0,"created_at":0,"updated_at":0}','Enabled','Connected','','simulated-1','simulated',4,1,1795932090499,1795932090499,'{"uuid":"65f34bc8bb425b67a9f9682c93cb168a","name":"two","zone_uuid":"7a007a391d483c9f843bf1df4b7e5d8f","address":{"driver":"simulated","transport":"unix","address":"","port":0,"socket":"","username":"","options":{"cpu":"8","memory":"32GiB","boot_ms":"50","state_file":"two.json"}},"machine_type":"VirtualMachine","rack":"","labels":{},"overcommit":{"ratios":{},"reserved":{}},"capacity_override":{},"bridge":"","state":"Enabled","status":"Connecting","status_reason":"","boot_id":"","total":{},"usable":{},"foreign":{},"used":{},"virt_type":"","description":"","cluster_uuid":"","version":0,"created_at":0,"updated_at":0}');
CREATE TABLE images (
	uuid VARCHAR(32) NOT NULL, 
	name TEXT NOT NULL, 
	document TEXT NOT NULL, 
	version BIGINT DEFAULT '1' NOT NULL, 
	created_at BIGINT DEFAULT '0' NOT NULL, 
	updated_at BIGINT DEFAULT '0' NOT NULL, 
	configured TEXT DEFAULT '' NOT NULL, 
	CONSTRAINT pk_images PRIMARY KEY (uuid)
);
INSERT INTO "images" VALUES('92b6b729f1d25128a7d14beedd806d7c','guest','{"uuid":"92b6b729f1d25128a7d14beedd806d7c","image":{"name":"guest","kernel_path":"/boot/none","initrd_path":"","kernel_arguments":"","disk_path":"","disk_format":"raw","sha256":{},"delivery":"fw_cfg","progress_channel":"org.corral.progress"},"format":"kernel","size":0,"version":0,"created_at":0,"updated_at":0}',1,1795932090499,1795932090499,'{"uuid":"92b6b729f1d25128a7d14beedd806d7c","image":{"name":"guest","kernel_path":"/boot/none","initrd_path":"","kernel_arguments":"","disk_path":"","disk_format":"raw","sha256":{},"delivery":"fw_cfg","progress_channel":"org.corral.progress"},"format":"kernel","size":0,"version":0,"created_at":0,"updated_at":0}');
CREATE TABLE instances (
	uuid VARCHAR(32) NOT NULL, 
	group_uuid VARCHAR(32) NOT NULL, 
	rank INTEGER NOT NULL, 
	spec TEXT NOT NULL, 
	status VARCHAR(64) NOT NULL, 
	reason TEXT NOT NULL, 
	host_uuid VARCHAR(32) NOT NULL, 
	host_name TEXT NOT NULL, 
	zone_uuid VARCHAR(32) NOT NULL, 
	machine_uuid VARCHAR(36) NOT NULL, 
	service_port INTEGER NOT NULL, 
	attempt INTEGER NOT NULL, 
	restarts INTEGER NOT NULL, 
	address TEXT NOT NULL, 
	mac TEXT NOT NULL, 
	unknown_since BIGINT NOT NULL, 
	deadline_at BIGINT NOT NULL, 
	boot_timeout_ms BIGINT NOT NULL, 
	stop_grace_ms BIGINT NOT NULL, 
	was_resumed BOOLEAN NOT NULL, 
	stop_asked BOOLEAN NOT NULL, 
	joining BOOLEAN NOT NULL, 
	leaving BOOLEAN NOT NULL, 
	created_at BIGINT NOT NULL, 
	updated_at BIGINT NOT NULL, move VARCHAR(64) DEFAULT '' NOT NULL, target_host_uuid VARCHAR(32) DEFAULT '' NOT NULL, target_host_name TEXT DEFAULT '' NOT NULL, move_deadline_at BIGINT DEFAULT '0' NOT NULL, 
	CONSTRAINT pk_instances PRIMARY KEY (uuid), 
	CONSTRAINT fk_instances_group_uuid FOREIGN KEY(group_uuid) REFERENCES groups (uuid)
);
INSERT INTO "instances" VALUES('4c4d5201845a579091b12d758451bd10','757ad006d2a140a6afe5b41c99e632d9',0,'{"name":"runs-0","model_service_uuid":"f1e135835fee363c9f57ed8232023886","zone_uuid":"7a007a391d483c9f843bf1df4b7e5d8f","cpu_num":1,"memory_size":1073741824,"type":"VirtualMachine","is_initial_node":true,"node_rank":0,"timeout_ms":300000,"tensor_parallel_size":0,"cluster_uuid":"","description":"","environment_variables":{},"startup_parameters":"","root_disk_size":0,"gpus":[],"labels":{},"model_service_version":1}','Running','','2be9cef1988a565da0486767ffecfc5f','one','7a007a391d483c9f843bf1df4b7e5d8f','4914ea6c-2f19-5bb2-a406-d6ac396cb292',8080,1,0,'10.9.0.10','52:54:0a:09:00:0a',0,0,300000,0,1,0,0,0,1795932092681,1795932095627,'','','',0);
INSERT INTO "instances" VALUES('c78b4629e63a52a3afb86c5372e83aaf','757ad006d2a140a6afe5b41c99e632d9',1,'{"name":"runs-1","model_service_uuid":"f1e135835fee363c9f57ed8232023886","zone_uuid":"7a007a391d483c9f843bf1df4b7e5d8f","cpu_num":1,"memory_size":1073741824,"type":"VirtualMachine","is_initial_node":false,"node_rank":1,"timeout_ms":300000,"tensor_parallel_size":0,"cluster_uuid":"","description":"","environment_variables":{},"startup_parameters":"","root_disk_size":0,"gpus":[],"labels":{},"model_service_version":1}','Running','','65f34bc8bb425b67a9f9682c93cb168a','two','7a007a391d483c9f843bf1df4b7e5d8f','ce8fa9a0-c943-5941-8114-c1a3692a2ee4',8080,1,0,'10.9.0.11','52:54:0a:09:00:0b',0,0,300000,0,1,0,0,0,1795932092681,1795932095612,'','','',0);
INSERT INTO "instances" VALUES('6aaa99079b575520adb5ab1800598316','757ad006d2a140a6afe5b41c99e632d9',2,'{"name":"runs-2","model_service_uuid":"f1e135835fee363c9f57ed8232023886","zone_uuid":"7a007a391d483c9f843bf1df4b7e5d8f","cpu_num":1,"memory_size":1073741824,"type":"VirtualMachine","is_initial_node":false,"node_rank":2,"timeout_ms":300000,"tensor_parallel_size":0,"cluster_uuid":"","description":"","environment_variables":{},"startup_parameters":"","root_disk_size":0,"gpus":[],"labels":{},"model_service_version":1}','Running','','65f34bc8bb425b67a9f9682c93cb168a','two','7a007a391d483c9f843bf1df4b7e5d8f','fe388d18-e76c-5da7-b5c7-ef5718a378d2',8080,1,0,'10.9.0.12','52:54:0a:09:00:0c',0,0,300000,0,1,0,0,0,1795932092681,1795932095612,'','','',0);
INSERT INTO "instances" VALUES('7d5a1cddb7685016a7b413c11c7d2889','74fe21d8da8c4241903fe5ad6a34e552',0,'{"name":"rests-0","model_service_uuid":"f1e135835fee363c9f57ed8232023886","zone_uuid":"7a007a391d483c9f843bf1df4b7e5d8f","cpu_num":1,"memory_size":1073741824,"type":"VirtualMachine","is_initial_node":true,"node_rank":0,"timeout_ms":300000,"tensor_parallel_size":0,"cluster_uuid":"","description":"","environment_variables":{},"startup_parameters":"","root_disk_size":0,"gpus":[],"labels":{},"model_service_version":1}','Stopped','its machine stopped by itself','65f34bc8bb425b67a9f9682c93cb168a','two','7a007a391d483c9f843bf1df4b7e5d8f','ecbe43e7-e4ac-581c-8d76-29d9eada4e8b',8080,1,0,'10.9.0.13','52:54:0a:09:00:0d',0,0,300000,0,1,0,0,0,1795932095421,1795932096034,'','','',0);
INSERT INTO "instances" VALUES('58d6b5da583153d69b8b1a18124f7cfb','3d6d2ef42b0a4d32aa5b37a892b539ac',0,'{"name":"gone-0","model_service_uuid":"f1e135835fee363c9f57ed8232023886","zone_uuid":"7a007a391d483c9f843bf1df4b7e5d8f","cpu_num":1,"memory_size":1073741824,"type":"VirtualMachine","is_initial_node":true,"node_rank":0,"timeout_ms":300000,"tensor_parallel_size":0,"cluster_uuid":"","description":"","environment_variables":{},"startup_parameters":"","root_disk_size":0,"gpus":[],"labels":{},"model_service_version":1}','Removed','','65f34bc8bb425b67a9f9682c93cb168a','two','7a007a391d483c9f843bf1df4b7e5d8f','87e0b5af-c395-5796-b433-9c6dd84a11c5',8080,1,0,'10.9.0.14','52:54:0a:09:00:0e',0,0,300000,0,1,0,0,0,1795932095685,1795932096182,'','','',0);
CREATE TABLE jobs (
	uuid VARCHAR(32) NOT NULL, 
	operation VARCHAR(64) NOT NULL, 
	caller TEXT NOT NULL, 
	arguments TEXT NOT NULL, 
	state VARCHAR(64) NOT NULL, 
	outcome TEXT NOT NULL, 
	webhook TEXT NOT NULL, 
	webhook_due BOOLEAN NOT NULL, 
	owner TEXT NOT NULL, 
	lease_until BIGINT NOT NULL, 
	created_at BIGINT NOT NULL, 
	ended_at BIGINT NOT NULL, 
	CONSTRAINT pk_jobs PRIMARY KEY (uuid)
);
CREATE TABLE model_service_versions (
	uuid VARCHAR(32) NOT NULL, 
	version BIGINT NOT NULL, 
	document TEXT NOT NULL, 
	CONSTRAINT pk_model_service_versions PRIMARY KEY (uuid, version)
);
INSERT INTO "model_service_versions" VALUES('f1e135835fee363c9f57ed8232023886',1,'{"uuid":"f1e135835fee363c9f57ed8232023886","name":"default","image":{"name":"guest","kernel_path":"/boot/none","initrd_path":"","kernel_arguments":"","disk_path":"","disk_format":"raw","sha256":{},"delivery":"fw_cfg","progress_channel":"org.corral.progress"},"description":"","framework":"custom","model_uuid":"","model_service_type":"VirtualMachine","ports":{"service":8080},"health_path":"/health","default_cpu":1,"default_memory":1073741824,"root_disk_size":0,"initial_command":"","worker_command":"","environment":{},"workers_first":false,"boot_timeout_ms":300000,"stop_grace_ms":0,"supported_metrics":[],"image_uuid":"92b6b729f1d25128a7d14beedd806d7c","readiness_port":0,"readiness_interval_ms":0,"readiness_timeout_ms":0,"version":0,"created_at":0,"updated_at":0}');
CREATE TABLE model_services (
	uuid VARCHAR(32) NOT NULL, 
	name TEXT NOT NULL, 
	document TEXT NOT NULL, version BIGINT DEFAULT '1' NOT NULL, created_at BIGINT DEFAULT '0' NOT NULL, updated_at BIGINT DEFAULT '0' NOT NULL, configured TEXT DEFAULT '' NOT NULL, image_uuid VARCHAR(32) DEFAULT '' NOT NULL, 
	CONSTRAINT pk_model_services PRIMARY KEY (uuid)
);
INSERT INTO "model_services" VALUES('f1e135835fee363c9f57ed8232023886','default','{"uuid":"f1e135835fee363c9f57ed8232023886","name":"default","image":{"name":"guest","kernel_path":"/boot/none","initrd_path":"","kernel_arguments":"","disk_path":"","disk_format":"raw","sha256":{},"delivery":"fw_cfg","progress_channel":"org.corral.progress"},"description":"","framework":"custom","model_uuid":"","model_service_type":"VirtualMachine","ports":{"service":8080},"health_path":"/health","default_cpu":1,"default_memory":1073741824,"root_disk_size":0,"initial_command":"","worker_command":"","environment":{},"workers_first":false,"boot_timeout_ms":300000,"stop_grace_ms":0,"supported_metrics":[],"image_uuid":"92b6b729f1d25128a7d14beedd806d7c","readiness_port":0,"readiness_interval_ms":0,"readiness_timeout_ms":0,"version":0,"created_at":0,"updated_at":0}',1,1795932090499,1795932090499,'{"uuid":"f1e135835fee363c9f57ed8232023886","name":"default","image":{"name":"guest","kernel_path":"/boot/none","initrd_path":"","kernel_arguments":"","disk_path":"","disk_format":"raw","sha256":{},"delivery":"fw_cfg","progress_channel":"org.corral.progress"},"description":"","framework":"custom","model_uuid":"","model_service_type":"VirtualMachine","ports":{"service":8080},"health_path":"/health","default_cpu":1,"default_memory":1073741824,"root_disk_size":0,"initial_command":"","worker_command":"","environment":{},"workers_first":false,"boot_timeout_ms":300000,"stop_grace_ms":0,"supported_metrics":[],"image_uuid":"92b6b729f1d25128a7d14beedd806d7c","readiness_port":0,"readiness_interval_ms":0,"readiness_timeout_ms":0,"version":0,"created_at":0,"updated_at":0}','92b6b729f1d25128a7d14beedd806d7c');
CREATE TABLE quotas (
	project VARCHAR(256) NOT NULL, 
	resource VARCHAR(64) NOT NULL, 
	"limit" BIGINT NOT NULL, 
	generation BIGINT NOT NULL, 
	CONSTRAINT pk_quotas PRIMARY KEY (project, resource)
);
CREATE TABLE requests (
	principal VARCHAR(256) NOT NULL, 
	method VARCHAR(64) NOT NULL, 
	request_id VARCHAR(128) NOT NULL, 
	body_hash VARCHAR(64) NOT NULL, 
	group_uuid VARCHAR(32) NOT NULL, 
	after_revision BIGINT NOT NULL, 
	created_at BIGINT NOT NULL, 
	CONSTRAINT pk_requests PRIMARY KEY (principal, method, request_id)
);
CREATE TABLE sessions (
	digest VARCHAR(64) NOT NULL, 
	account TEXT NOT NULL, 
	created_at BIGINT NOT NULL, 
	expires_at BIGINT NOT NULL, 
	CONSTRAINT pk_sessions PRIMARY KEY (digest)
);
CREATE TABLE zones (
	uuid VARCHAR(32) NOT NULL, 
	name TEXT NOT NULL, 
	document TEXT NOT NULL, version BIGINT DEFAULT '1' NOT NULL, created_at BIGINT DEFAULT '0' NOT NULL, updated_at BIGINT DEFAULT '0' NOT NULL, configured TEXT DEFAULT '' NOT NULL, 
	CONSTRAINT pk_zones PRIMARY KEY (uuid)
);
INSERT INTO "zones" VALUES('7a007a391d483c9f843bf1df4b7e5d8f','zone-1','{"uuid":"7a007a391d483c9f843bf1df4b7e5d8f","name":"zone-1","description":"","network":{"kind":"network","source":"corral","subnet":"10.9.0.0/24","gateway":"10.9.0.1","first_address":"10.9.0.10","last_address":"10.9.0.49"},"overcommit":{"ratios":{},"reserved":{}},"version":0,"created_at":0,"updated_at":0}',1,1795932090499,1795932090499,'{"uuid":"7a007a391d483c9f843bf1df4b7e5d8f","name":"zone-1","description":"","network":{"kind":"network","source":"corral","subnet":"10.9.0.0/24","gateway":"10.9.0.1","first_address":"10.9.0.10","last_address":"10.9.0.49"},"overcommit":{"ratios":{},"reserved":{}},"version":0,"created_at":0,"updated_at":0}');
CREATE INDEX ix_groups_due_at ON groups (due_at);
CREATE INDEX ix_groups_project_created_at_uuid ON groups (project, created_at, uuid);
CREATE INDEX ix_hosts_zone_uuid ON hosts (zone_uuid);
CREATE INDEX ix_instances_group_uuid ON instances (group_uuid);
CREATE INDEX ix_instances_host_uuid ON instances (host_uuid);
CREATE INDEX ix_sessions_expires_at ON sessions (expires_at);
CREATE INDEX ix_jobs_ended_at ON jobs (ended_at);
CREATE INDEX ix_jobs_state_lease_until ON jobs (state, lease_until);
CREATE INDEX ix_model_services_image_uuid ON model_services (image_uuid);
CREATE INDEX ix_audit_time ON audit (time);
CREATE INDEX ix_audit_subject ON audit (subject);
CREATE INDEX ix_instances_target_host_uuid ON instances (target_host_uuid);
CREATE INDEX ix_claims_host_uuid ON claims (host_uuid);
CREATE INDEX ix_claims_group_uuid ON claims (group_uuid);
COMMIT;
