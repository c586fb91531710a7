import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import org.zstack.sdk.*;

/**
 * Drives a service by ZStack's Java SDK, as its users do: every list is read by the SDK's classes.
 *
 * <p>Arguments: host, port, account, sha512 of its password, uuids of zone and catalogue entry, id and secret of an
 * access key. Prints a line a row, `PASS name` or `FAIL name why`; exit code 1 where one failed.
 */
public final class Drive {
    private static final long GIB = 1L << 30;
    private static final String GROUP = "5dc0000000000000000000000000000a";

    private final String zone;
    private final String entry;
    private String session;
    private boolean failed;

    private interface Row {
        void run() throws Exception;
    }

    private Drive(String zone, String entry) {
        this.zone = zone;
        this.entry = entry;
    }

    public static void main(String[] arguments) {
        ZSClient.configure(
                new ZSConfig.Builder()
                        .setHostname(arguments[0])
                        .setPort(Integer.parseInt(arguments[1]))
                        .setDefaultPollingInterval(50, TimeUnit.MILLISECONDS)
                        .setDefaultPollingTimeout(60, TimeUnit.SECONDS)
                        .setReadTimeout(60, TimeUnit.SECONDS)
                        .build());
        Drive drive = new Drive(arguments[4], arguments[5]);
        drive.sessions(arguments[2], arguments[3]);
        drive.fleet();
        drive.groups();
        drive.refusals();
        drive.batches();
        drive.row("log out", drive::logOut);
        // Last: a signature holds for minutes only, so that what is recorded ends here.
        drive.row("access key", () -> drive.accessKey(arguments[6], arguments[7]));
        // okhttp's idle threads would keep the process for minutes.
        System.exit(drive.failed ? 1 : 0);
    }

    private void row(String name, Row row) {
        try {
            row.run();
            System.out.println("PASS " + name);
        } catch (Throwable error) {
            failed = true;
            System.out.println("FAIL " + name + ": " + error + " at " + error.getStackTrace()[0]);
        }
    }

    private static void must(boolean truth, Object told) {
        if (!truth) {
            throw new IllegalStateException("told: " + ZSClientText.of(told));
        }
    }

    private void sessions(String account, String password) {
        row("log in", () -> {
            LogInByAccountAction action = new LogInByAccountAction();
            action.accountName = account;
            action.password = password;
            SessionInventory told = action.call().throwExceptionIfError().value.inventory;
            session = told.uuid;
            must(told.expiredDate.after(told.createDate), told);
        });
        row("validate the session", () -> {
            ValidateSessionAction action = new ValidateSessionAction();
            action.sessionUuid = session;
            must(action.call().throwExceptionIfError().value.valid, action);
        });
        row("renew the session", () -> {
            RenewSessionAction action = new RenewSessionAction();
            action.sessionUuid = session;
            action.sessionId = session;
            action.duration = 31536000L;
            must(action.call().throwExceptionIfError().value.inventory.uuid.equals(session), action);
        });
        row("version", () -> {
            GetVersionAction action = new GetVersionAction();
            must(!action.call().throwExceptionIfError().value.version.isEmpty(), action);
        });
    }

    private <Q extends QueryAction> Q query(Q action, String... conditions) {
        action.sessionId = session;
        action.conditions = Arrays.asList(conditions);
        action.replyWithCount = true;
        return action;
    }

    private void fleet() {
        row("zones as ZoneInventory", () -> {
            QueryZoneResult told = query(new QueryZoneAction(), "uuid=" + zone).call().throwExceptionIfError().value;
            ZoneInventory found = (ZoneInventory) told.inventories.get(0);
            must(told.total == 1 && found.uuid.equals(zone) && found.createDate != null, told);
        });
        row("hosts as KVMHostInventory", () -> {
            QueryHostAction action = query(new QueryHostAction());
            action.sortBy = "name";
            action.sortDirection = "asc";
            QueryHostResult told = action.call().throwExceptionIfError().value;
            for (Object each : told.inventories) {
                KVMHostInventory host = (KVMHostInventory) each;
                must(host.zoneUuid.equals(zone) && host.totalCpuCapacity > 0 && host.totalMemoryCapacity > 0, host);
            }
            must(told.total == told.inventories.size() && told.total >= 2, told);
        });
        row("clusters as ClusterInventory", () -> {
            QueryClusterResult told = query(new QueryClusterAction()).call().throwExceptionIfError().value;
            must(((ClusterInventory) told.inventories.get(0)).zoneUuid.equals(zone), told);
        });
        row("images as ImageInventory", () -> {
            QueryImageResult told = query(new QueryImageAction()).call().throwExceptionIfError().value;
            must(((ImageInventory) told.inventories.get(0)).status.equals("Ready"), told);
        });
        row("model services as ModelServiceInventory", () -> {
            QueryModelServiceAction action = query(new QueryModelServiceAction(), "uuid=" + entry);
            QueryModelServiceResult told = action.call().throwExceptionIfError().value;
            ModelServiceInventory found = (ModelServiceInventory) told.inventories.get(0);
            must(found.supportDistributed && found.uuid.equals(entry), told);
        });
        row("capacity as CpuMemoryCapacityData", () -> {
            GetCpuMemoryCapacityAction action = new GetCpuMemoryCapacityAction();
            action.sessionId = session;
            action.zoneUuids = Arrays.asList(zone);
            GetCpuMemoryCapacityResult told = action.call().throwExceptionIfError().value;
            CpuMemoryCapacityData part = (CpuMemoryCapacityData) told.capacityData.get(0);
            must(part.resourceUuid.equals(zone) && part.totalCpu == told.totalCpu && told.totalMemory > 0, told);
        });
        row("a zone is made and deleted", () -> {
            CreateZoneAction action = new CreateZoneAction();
            action.sessionId = session;
            action.name = "by-java";
            ZoneInventory made = (ZoneInventory) action.call().throwExceptionIfError().value.inventory;
            DeleteZoneAction gone = new DeleteZoneAction();
            gone.sessionId = session;
            gone.uuid = made.uuid;
            gone.call().throwExceptionIfError();
            must(query(new QueryZoneAction(), "uuid=" + made.uuid).call().value.total == 0, made);
        });
        row("a host is disabled and enabled", () -> {
            String uuid = ((HostInventory) query(new QueryHostAction(), "name=host-1").call().value.inventories.get(0)).uuid;
            for (String event : new String[] {"disable", "enable"}) {
                ChangeHostStateAction action = new ChangeHostStateAction();
                action.sessionId = session;
                action.uuid = uuid;
                action.stateEvent = event;
                HostInventory told = (HostInventory) action.call().throwExceptionIfError().value.inventory;
                must(told.state.equals(event.equals("enable") ? "Enabled" : "Disabled"), told);
            }
        });
    }

    private Map<String, Object> node(String name, boolean initial) {
        Map<String, Object> node = new HashMap<>();
        node.put("isInitialNode", initial);
        node.put("uuid", entry);
        node.put("zoneUuid", zone);
        node.put("cpuNum", 1);
        node.put("name", name);
        node.put("type", "VirtualMachine");
        node.put("memorySize", GIB);
        node.put("timeout", 0);
        return node;
    }

    private DeployDistributedModelServiceAction deploy(String uuid, String... names) {
        DeployDistributedModelServiceAction action = new DeployDistributedModelServiceAction();
        action.sessionId = session;
        action.name = "by-java";
        action.serviceCreationStrategy = "parallel";
        action.resourceUuid = uuid;
        action.userTags = Arrays.asList("team::java");
        List<Map<String, Object>> nodes = new java.util.ArrayList<>();
        for (String name : names) {
            nodes.add(node(name, nodes.isEmpty()));
        }
        action.modelServices = nodes;
        return action;
    }

    /** The group with all its typed parts; a cast that does not hold is what users of the SDK would see. */
    private static void typed(ModelServiceInstanceGroupInventory group, int members) {
        must(group.instances.size() == members, group);
        for (Object each : group.instances) {
            ModelServiceInstanceInventory member = (ModelServiceInstanceInventory) each;
            VmInstanceInventory machine = member.vm;
            must(member.modelServiceGroupUuid.equals(group.uuid) && machine.uuid.equals(member.vmInstanceUuid), member);
            must(machine.cpuNum == 1 && machine.memorySize == GIB && machine.hostUuid != null, machine);
            for (Object nic : machine.vmNics) {
                must(((VmNicInventory) nic).vmInstanceUuid.equals(machine.uuid), nic);
            }
        }
    }

    private ModelServiceInstanceGroupInventory found(String uuid) {
        QueryModelServiceInstanceGroupResult told =
                query(new QueryModelServiceInstanceGroupAction(), "uuid=" + uuid).call().throwExceptionIfError().value;
        return told.inventories.isEmpty() ? null : (ModelServiceInstanceGroupInventory) told.inventories.get(0);
    }

    private void groups() {
        row("deploy of a leader and two workers", () -> {
            ModelServiceInstanceGroupInventory told =
                    deploy(GROUP, "leader", "worker-1", "worker-2").call().throwExceptionIfError().value.inventory;
            must(told.status.equals("Running") && told.uuid.equals(GROUP), told);
            typed(told, 3);
        });
        row("groups as ModelServiceInstanceGroupInventory", () -> typed(found(GROUP), 3));
        row("instances by a condition on their fields", () -> {
            QueryModelServiceInstanceGroupAction action =
                    query(new QueryModelServiceInstanceGroupAction(), "instances.name=worker-2", "status?=Running,Unknown");
            must(action.call().throwExceptionIfError().value.total == 1, action);
        });
        row("machines as VmInstanceInventory", () -> {
            QueryVmInstanceResult told = query(new QueryVmInstanceAction(), "name~=worker%").call().throwExceptionIfError().value;
            must(told.total == 2 && ((VmInstanceInventory) told.inventories.get(1)).state.equals("Running"), told);
        });
        row("update", () -> {
            UpdateModelServiceInstanceGroupAction action = new UpdateModelServiceInstanceGroupAction();
            action.sessionId = session;
            action.uuid = GROUP;
            action.description = "told by Java";
            must(action.call().throwExceptionIfError().value.inventory.description.equals("told by Java"), action);
        });
        row("a group of one by deployModelService", () -> {
            DeployModelServiceAction action = new DeployModelServiceAction();
            action.sessionId = session;
            action.uuid = entry;
            action.zoneUuid = zone;
            action.name = "alone";
            action.type = "VirtualMachine";
            action.cpuNum = 1;
            action.memorySize = GIB;
            ModelServiceInstanceGroupInventory told = action.call().throwExceptionIfError().value.inventory;
            typed(told, 1);
            delete(told.uuid);
        });
        row("match of templates with a model", () -> {
            MatchModelServiceTemplateWithModelAction action = new MatchModelServiceTemplateWithModelAction();
            action.sessionId = session;
            action.modelUuids = Arrays.asList("d".repeat(32));
            action.modelServiceUuids = Arrays.asList(entry);
            action.instanceNumber = 2;
            action.zoneUuid = zone;
            action.name = "match";
            action.type = "VirtualMachine";
            must(action.call().throwExceptionIfError().value.result.containsKey(entry), action);
        });
        row("dry run", () -> {
            DeployDistributedModelServiceAction action = deploy("5dc0000000000000000000000000000b", "one");
            action.systemTags = Arrays.asList("validationOnly");
            must(action.call().throwExceptionIfError().value.inventory.instances.size() == 1, action);
            must(found("5dc0000000000000000000000000000b") == null, action);
        });
    }

    private void refused(DeployDistributedModelServiceAction action, String code, String details) {
        ErrorCode error = action.call().error;
        must(error != null && error.code.equals(code) && error.details.contains(details), error);
    }

    private void refusals() {
        row("an unknown zone is told by its field", () -> {
            DeployDistributedModelServiceAction action = deploy(null, "one");
            ((Map<String, Object>) action.modelServices.get(0)).put("zoneUuid", "0".repeat(32));
            ErrorCode error = action.call().error;
            must(error.code.startsWith("SYS.10") && error.details.contains("zoneUuid"), error);
        });
        row("a field out of its range is SYS.1007", () -> {
            DeployDistributedModelServiceAction action = deploy(null, "one");
            ((Map<String, Object>) action.modelServices.get(0)).put("cpuNum", 0);
            refused(action, "SYS.1007", "cpuNum");
        });
        row("too large is HOST_ALLOCATION.1000", () -> {
            DeployDistributedModelServiceAction action = deploy(null, "one");
            ((Map<String, Object>) action.modelServices.get(0)).put("memorySize", 1L << 45);
            refused(action, "HOST_ALLOCATION.1000", "");
        });
        row("a uuid that exists is refused", () -> {
            DeployDistributedModelServiceAction action = deploy(GROUP, "one");
            must(action.call().error != null, action);
        });
        row("a wrong session is ID.1001", () -> {
            DeployDistributedModelServiceAction action = deploy(null, "one");
            action.sessionId = "0".repeat(32);
            refused(action, "ID.1001", "");
        });
    }

    private void delete(String uuid) {
        DeleteModelServiceInstanceGroupAction action = new DeleteModelServiceInstanceGroupAction();
        action.sessionId = session;
        action.uuid = uuid;
        action.call().throwExceptionIfError();
    }

    private void batches() {
        row("restart, a result for each group", () -> {
            RestartModelServiceGroupsAction action = new RestartModelServiceGroupsAction();
            action.sessionId = session;
            action.uuids = Arrays.asList(GROUP, "0".repeat(32));
            List<Map<String, Object>> told = action.call().throwExceptionIfError().value.results;
            must(told.get(0).get("success").equals(true) && told.get(1).get("success").equals(false), told);
            typed(found(GROUP), 3);
        });
        row("delete", () -> {
            delete(GROUP);
            must(found(GROUP) == null, GROUP);
        });
        row("delete of several, a result for each", () -> {
            String one = deploy(null, "one").call().throwExceptionIfError().value.inventory.uuid;
            String two = deploy(null, "two").call().throwExceptionIfError().value.inventory.uuid;
            DeleteModelServiceInstanceGroupsAction action = new DeleteModelServiceInstanceGroupsAction();
            action.sessionId = session;
            action.uuids = Arrays.asList(one, two);
            List<Map<String, Object>> told = action.call().throwExceptionIfError().value.results;
            must(told.size() == 2 && told.get(1).get("success").equals(true), told);
        });
    }

    private void accessKey(String id, String secret) {
        QueryModelServiceInstanceGroupAction action = new QueryModelServiceInstanceGroupAction();
        action.accessKeyId = id;
        action.accessKeySecret = secret;
        must(action.call().throwExceptionIfError().value.inventories != null, action);
        DeployDistributedModelServiceAction made = deploy(null, "signed");
        made.sessionId = null;
        made.accessKeyId = id;
        made.accessKeySecret = secret;
        DeleteModelServiceInstanceGroupAction gone = new DeleteModelServiceInstanceGroupAction();
        gone.accessKeyId = id;
        gone.accessKeySecret = secret;
        gone.uuid = made.call().throwExceptionIfError().value.inventory.uuid;
        gone.call().throwExceptionIfError();
    }

    private void logOut() {
        LogOutAction action = new LogOutAction();
        action.sessionUuid = session;
        action.call().throwExceptionIfError();
        ValidateSessionAction asked = new ValidateSessionAction();
        asked.sessionUuid = session;
        must(!asked.call().throwExceptionIfError().value.valid, asked);
    }

    /** What was told, for people. */
    private static final class ZSClientText {
        static String of(Object told) {
            return new com.google.gson.Gson().toJson(told);
        }
    }
}
