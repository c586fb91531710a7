BEGIN TRANSACTION;
CREATE TABLE addresses (
	zone_uuid VARCHAR(32) NOT NULL, 
	address VARCHAR(64) NOT NULL, 
	instance_uuid VARCHAR(32) NOT NULL, 
	attempt INTEGER NOT NULL, 
	CONSTRAINT pk_addresses PRIMARY KEY (zone_uuid, address), 
	CONSTRAINT uq_addresses_instance_uuid_attempt UNIQUE (instance_uuid, attempt)
);
INSERT INTO "addresses" VALUES('7a007a391d483c9f843bf1df4b7e5d8f','10.77.1.10','4315d070ae9b53318a3e7e54242caef1',1);
INSERT INTO "addresses" VALUES('7a007a391d483c9f843bf1df4b7e5d8f','10.77.1.11','83ff0116f9f9562b8e058d6bfb3102d9',1);
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
INSERT INTO "claims" VALUES('4315d070ae9b53318a3e7e54242caef1',1,'memory','88f9ec45a7f65e75aedd7743519d0233','78c45c15b10c42e086923c5b08928003',100663296);
INSERT INTO "claims" VALUES('4315d070ae9b53318a3e7e54242caef1',1,'vcpu','88f9ec45a7f65e75aedd7743519d0233','78c45c15b10c42e086923c5b08928003',1);
INSERT INTO "claims" VALUES('83ff0116f9f9562b8e058d6bfb3102d9',1,'memory','88f9ec45a7f65e75aedd7743519d0233','78c45c15b10c42e086923c5b08928003',100663296);
INSERT INTO "claims" VALUES('83ff0116f9f9562b8e058d6bfb3102d9',1,'vcpu','88f9ec45a7f65e75aedd7743519d0233','78c45c15b10c42e086923c5b08928003',1);
CREATE TABLE counters (
	name VARCHAR(64) NOT NULL, 
	value BIGINT NOT NULL, 
	CONSTRAINT pk_counters PRIMARY KEY (name)
);
INSERT INTO "counters" VALUES('revision',23);
INSERT INTO "counters" VALUES('compacted_revision',23);
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
INSERT INTO "groups" VALUES('78c45c15b10c42e086923c5b08928003','default','anonymous','before','{"name":"before","nodes":[{"name":"before-0","model_service_uuid":"f1e135835fee363c9f57ed8232023886","zone_uuid":"7a007a391d483c9f843bf1df4b7e5d8f","cpu_num":1,"memory_size":100663296,"type":"VirtualMachine","is_initial_node":true,"node_rank":0,"timeout_ms":300000,"tensor_parallel_size":0,"cluster_uuid":"","description":"","environment_variables":{"PLAIN":"a value"},"startup_parameters":"","root_disk_size":0,"gpus":[],"labels":{},"model_service_version":1},{"name":"before-1","model_service_uuid":"f1e135835fee363c9f57ed8232023886","zone_uuid":"7a007a391d483c9f843bf1df4b7e5d8f","cpu_num":1,"memory_size":100663296,"type":"VirtualMachine","is_initial_node":false,"node_rank":1,"timeout_ms":300000,"tensor_parallel_size":0,"cluster_uuid":"","description":"","environment_variables":{"PLAIN":"a value"},"startup_parameters":"","root_disk_size":0,"gpus":[],"labels":{},"model_service_version":1}],"creation_strategy":"parallel","description":"","system_tags":[],"user_tags":[],"tag_uuids":[],"failure_policy":"replace_member","failure_budget":3,"placement":{"strategy":"least_lost_value","max_per_host":0,"max_per_rack":0,"exclusive_hosts":false,"affinity_groups":[],"anti_affinity_groups":[]},"deadline_ms":0,"workers_first":false,"model_uuid":"","model_service_type":"VirtualMachine","support_metrics":[]}',0,'running','Running','',NULL,'{"assignments":[{"instance_uuid":"4315d070ae9b53318a3e7e54242caef1","rank":0,"name":"before-0","host_uuid":"88f9ec45a7f65e75aedd7743519d0233","host_name":"hv1","zone_uuid":"7a007a391d483c9f843bf1df4b7e5d8f","resources":{"vcpu":1,"memory":100663296}},{"instance_uuid":"83ff0116f9f9562b8e058d6bfb3102d9","rank":1,"name":"before-1","host_uuid":"88f9ec45a7f65e75aedd7743519d0233","host_name":"hv1","zone_uuid":"7a007a391d483c9f843bf1df4b7e5d8f","resources":{"vcpu":1,"memory":100663296}}],"strategy":"least_lost_value","objective":77.0,"lower_bound":77.0,"upper_bound":77.0,"proof":"optimal","stage":"dive","duration_ms":1336.3500060004299,"claim_tries":1}',1,1,1,0,0,1795942647251,0,'[]',16,9,23,0,1795942599902,1795942647251,'',1,0,1795942657266);
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
INSERT INTO "host_resources" VALUES('88f9ec45a7f65e75aedd7743519d0233','memory',21474836480,20401094656,0,201326592);
INSERT INTO "host_resources" VALUES('88f9ec45a7f65e75aedd7743519d0233','vcpu',4,40,0,2);
INSERT INTO "host_resources" VALUES('e8e77cb1013f559fa275c1f48956f878','memory',21474836480,20401094656,0,0);
INSERT INTO "host_resources" VALUES('e8e77cb1013f559fa275c1f48956f878','vcpu',4,40,0,0);
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
INSERT INTO "hosts" VALUES('88f9ec45a7f65e75aedd7743519d0233','hv1','7a007a391d483c9f843bf1df4b7e5d8f','{"uuid":"88f9ec45a7f65e75aedd7743519d0233","name":"hv1","zone_uuid":"7a007a391d483c9f843bf1df4b7e5d8f","address":{"driver":"libvirt","transport":"unix","address":"","port":0,"socket":"@LAB@/hv1/run/libvirt/libvirt-sock","username":"","options":{}},"machine_type":"VirtualMachine","rack":"","labels":{},"overcommit":{"ratios":{},"reserved":{}},"capacity_override":{"vcpu":4,"memory":21474836480},"bridge":"","state":"Enabled","status":"Connecting","status_reason":"","boot_id":"","total":{},"usable":{},"foreign":{},"used":{},"virt_type":"","description":"","cluster_uuid":"","version":0,"created_at":0,"updated_at":0}','Enabled','Connected','','9e2fbcf7-409c-4b76-af31-6eb0560feb1a','qemu',2,1,1795942597918,1795942597918,'{"uuid":"88f9ec45a7f65e75aedd7743519d0233","name":"hv1","zone_uuid":"7a007a391d483c9f843bf1df4b7e5d8f","address":{"driver":"libvirt","transport":"unix","address":"","port":0,"socket":"@LAB@/hv1/run/libvirt/libvirt-sock","username":"","options":{}},"machine_type":"VirtualMachine","rack":"","labels":{},"overcommit":{"ratios":{},"reserved":{}},"capacity_override":{"vcpu":4,"memory":21474836480},"bridge":"","state":"Enabled","status":"Connecting","status_reason":"","boot_id":"","total":{},"usable":{},"foreign":{},"used":{},"virt_type":"","description":"","cluster_uuid":"","version":0,"created_at":0,"updated_at":0}');
INSERT INTO "hosts" VALUES('e8e77cb1013f559fa275c1f48956f878','hv2','7a007a391d483c9f843bf1df4b7e5d8f','{"uuid":"e8e77cb1013f559fa275c1f48956f878","name":"hv2","zone_uuid":"7a007a391d483c9f843bf1df4b7e5d8f","address":{"driver":"libvirt","transport":"unix","address":"","port":0,"socket":"@LAB@/hv2/run/libvirt/libvirt-sock","username":"","options":{}},"machine_type":"VirtualMachine","rack":"","labels":{},"overcommit":{"ratios":{},"reserved":{}},"capacity_override":{"vcpu":4,"memory":21474836480},"bridge":"","state":"Enabled","status":"Connecting","status_reason":"","boot_id":"","total":{},"usable":{},"foreign":{},"used":{},"virt_type":"","description":"","cluster_uuid":"","version":0,"created_at":0,"updated_at":0}','Enabled','Connected','','b380546d-5cc5-41d3-aab3-d3a07c267d12','qemu',1,1,1795942597918,1795942597918,'{"uuid":"e8e77cb1013f559fa275c1f48956f878","name":"hv2","zone_uuid":"7a007a391d483c9f843bf1df4b7e5d8f","address":{"driver":"libvirt","transport":"unix","address":"","port":0,"socket":"@LAB@/hv2/run/libvirt/libvirt-sock","username":"","options":{}},"machine_type":"VirtualMachine","rack":"","labels":{},"overcommit":{"ratios":{},"reserved":{}},"capacity_override":{"vcpu":4,"memory":21474836480},"bridge":"","state":"Enabled","status":"Connecting","status_reason":"","boot_id":"","total":{},"usable":{},"foreign":{},"used":{},"virt_type":"","description":"","cluster_uuid":"","version":0,"created_at":0,"updated_at":0}');
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
INSERT INTO "images" VALUES('79da1be0877457d1950f59656667721f','default-guest','{"uuid":"79da1be0877457d1950f59656667721f","image":{"name":"default-guest","kernel_path":"@IMAGE@/vmlinuz","initrd_path":"@IMAGE@/initramfs.img","kernel_arguments":"console=ttyS0 no_timer_check quiet loglevel=3 panic=10","disk_path":"","disk_format":"raw","sha256":{"kernel":"3d616aa853fe11b1c0ea99a1cdb4fb6ddc9010ba7c4562de700ad94264989654","initrd":"5f99ea7004ebde62abab69b4071297ac42c6a3beda5999e0b14ef25386beb77d"},"delivery":"fw_cfg","progress_channel":"org.corral.progress"},"format":"kernel","size":15366351,"version":0,"created_at":0,"updated_at":0}',1,1795942597918,1795942597918,'{"uuid":"79da1be0877457d1950f59656667721f","image":{"name":"default-guest","kernel_path":"@IMAGE@/vmlinuz","initrd_path":"@IMAGE@/initramfs.img","kernel_arguments":"console=ttyS0 no_timer_check quiet loglevel=3 panic=10","disk_path":"","disk_format":"raw","sha256":{"kernel":"3d616aa853fe11b1c0ea99a1cdb4fb6ddc9010ba7c4562de700ad94264989654","initrd":"5f99ea7004ebde62abab69b4071297ac42c6a3beda5999e0b14ef25386beb77d"},"delivery":"fw_cfg","progress_channel":"org.corral.progress"},"format":"kernel","size":15366351,"version":0,"created_at":0,"updated_at":0}');
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
INSERT INTO "instances" VALUES('4315d070ae9b53318a3e7e54242caef1','78c45c15b10c42e086923c5b08928003',0,'{"name":"before-0","model_service_uuid":"f1e135835fee363c9f57ed8232023886","zone_uuid":"7a007a391d483c9f843bf1df4b7e5d8f","cpu_num":1,"memory_size":100663296,"type":"VirtualMachine","is_initial_node":true,"node_rank":0,"timeout_ms":300000,"tensor_parallel_size":0,"cluster_uuid":"","description":"","environment_variables":{"PLAIN":"a value"},"startup_parameters":"","root_disk_size":0,"gpus":[],"labels":{},"model_service_version":1}','Running','','88f9ec45a7f65e75aedd7743519d0233','hv1','7a007a391d483c9f843bf1df4b7e5d8f','48740a22-566f-51fe-907e-8c3650359f00',8080,1,0,'10.77.1.10','52:54:0a:4d:01:0a',0,0,300000,3000,1,0,0,0,1795942599902,1795942646029,'','','',0);
INSERT INTO "instances" VALUES('83ff0116f9f9562b8e058d6bfb3102d9','78c45c15b10c42e086923c5b08928003',1,'{"name":"before-1","model_service_uuid":"f1e135835fee363c9f57ed8232023886","zone_uuid":"7a007a391d483c9f843bf1df4b7e5d8f","cpu_num":1,"memory_size":100663296,"type":"VirtualMachine","is_initial_node":false,"node_rank":1,"timeout_ms":300000,"tensor_parallel_size":0,"cluster_uuid":"","description":"","environment_variables":{"PLAIN":"a value"},"startup_parameters":"","root_disk_size":0,"gpus":[],"labels":{},"model_service_version":1}','Running','','88f9ec45a7f65e75aedd7743519d0233','hv1','7a007a391d483c9f843bf1df4b7e5d8f','f66cf579-c2f0-5141-a2b8-d0da6741642f',8080,1,0,'10.77.1.11','52:54:0a:4d:01:0b',0,0,300000,3000,1,0,0,0,1795942599902,1795942647251,'','','',0);
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
INSERT INTO "model_service_versions" VALUES('f1e135835fee363c9f57ed8232023886',1,'{"uuid":"f1e135835fee363c9f57ed8232023886","name":"default","image":{"name":"default-guest","kernel_path":"@IMAGE@/vmlinuz","initrd_path":"@IMAGE@/initramfs.img","kernel_arguments":"console=ttyS0 no_timer_check quiet loglevel=3 panic=10","disk_path":"","disk_format":"raw","sha256":{"kernel":"3d616aa853fe11b1c0ea99a1cdb4fb6ddc9010ba7c4562de700ad94264989654","initrd":"5f99ea7004ebde62abab69b4071297ac42c6a3beda5999e0b14ef25386beb77d"},"delivery":"fw_cfg","progress_channel":"org.corral.progress"},"description":"","framework":"custom","model_uuid":"","model_service_type":"VirtualMachine","ports":{"service":8080},"health_path":"/health","default_cpu":1,"default_memory":1073741824,"root_disk_size":0,"initial_command":"","worker_command":"","environment":{},"workers_first":false,"boot_timeout_ms":300000,"stop_grace_ms":3000,"supported_metrics":[],"image_uuid":"79da1be0877457d1950f59656667721f","readiness_port":0,"readiness_interval_ms":0,"readiness_timeout_ms":0,"version":0,"created_at":0,"updated_at":0}');
CREATE TABLE model_services (
	uuid VARCHAR(32) NOT NULL, 
	name TEXT NOT NULL, 
	document TEXT NOT NULL, version BIGINT DEFAULT '1' NOT NULL, created_at BIGINT DEFAULT '0' NOT NULL, updated_at BIGINT DEFAULT '0' NOT NULL, configured TEXT DEFAULT '' NOT NULL, image_uuid VARCHAR(32) DEFAULT '' NOT NULL, 
	CONSTRAINT pk_model_services PRIMARY KEY (uuid)
);
INSERT INTO "model_services" VALUES('f1e135835fee363c9f57ed8232023886','default','{"uuid":"f1e135835fee363c9f57ed8232023886","name":"default","image":{"name":"default-guest","kernel_path":"@IMAGE@/vmlinuz","initrd_path":"@IMAGE@/initramfs.img","kernel_arguments":"console=ttyS0 no_timer_check quiet loglevel=3 panic=10","disk_path":"","disk_format":"raw","sha256":{"kernel":"3d616aa853fe11b1c0ea99a1cdb4fb6ddc9010ba7c4562de700ad94264989654","initrd":"5f99ea7004ebde62abab69b4071297ac42c6a3beda5999e0b14ef25386beb77d"},"delivery":"fw_cfg","progress_channel":"org.corral.progress"},"description":"","framework":"custom","model_uuid":"","model_service_type":"VirtualMachine","ports":{"service":8080},"health_path":"/health","default_cpu":1,"default_memory":1073741824,"root_disk_size":0,"initial_command":"","worker_command":"","environment":{},"workers_first":false,"boot_timeout_ms":300000,"stop_grace_ms":3000,"supported_metrics":[],"image_uuid":"79da1be0877457d1950f59656667721f","readiness_port":0,"readiness_interval_ms":0,"readiness_timeout_ms":0,"version":0,"created_at":0,"updated_at":0}',1,1795942597918,1795942597918,'{"uuid":"f1e135835fee363c9f57ed8232023886","name":"default","image":{"name":"default-guest","kernel_path":"@IMAGE@/vmlinuz","initrd_path":"@IMAGE@/initramfs.img","kernel_arguments":"console=ttyS0 no_timer_check quiet loglevel=3 panic=10","disk_path":"","disk_format":"raw","sha256":{"kernel":"3d616aa853fe11b1c0ea99a1cdb4fb6ddc9010ba7c4562de700ad94264989654","initrd":"5f99ea7004ebde62abab69b4071297ac42c6a3beda5999e0b14ef25386beb77d"},"delivery":"fw_cfg","progress_channel":"org.corral.progress"},"description":"","framework":"custom","model_uuid":"","model_service_type":"VirtualMachine","ports":{"service":8080},"health_path":"/health","default_cpu":1,"default_memory":1073741824,"root_disk_size":0,"initial_command":"","worker_command":"","environment":{},"workers_first":false,"boot_timeout_ms":300000,"stop_grace_ms":3000,"supported_metrics":[],"image_uuid":"79da1be0877457d1950f59656667721f","readiness_port":0,"readiness_interval_ms":0,"readiness_timeout_ms":0,"version":0,"created_at":0,"updated_at":0}','79da1be0877457d1950f59656667721f');
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
INSERT INTO "zones" VALUES('7a007a391d483c9f843bf1df4b7e5d8f','zone-1','{"uuid":"7a007a391d483c9f843bf1df4b7e5d8f","name":"zone-1","description":"","network":{"kind":"bridge","source":"br0","subnet":"10.77.0.0/16","gateway":"10.77.0.1","first_address":"10.77.1.10","last_address":"10.77.1.99"},"overcommit":{"ratios":{},"reserved":{}},"version":0,"created_at":0,"updated_at":0}',1,1795942597918,1795942597918,'{"uuid":"7a007a391d483c9f843bf1df4b7e5d8f","name":"zone-1","description":"","network":{"kind":"bridge","source":"br0","subnet":"10.77.0.0/16","gateway":"10.77.0.1","first_address":"10.77.1.10","last_address":"10.77.1.99"},"overcommit":{"ratios":{},"reserved":{}},"version":0,"created_at":0,"updated_at":0}');
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
