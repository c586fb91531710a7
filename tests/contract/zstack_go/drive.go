// Drives a service by ZStack's Go SDK, as its users do.
//
// Arguments: host, port, account, password, uuids of zone and catalogue entry, id and secret of an access key.
// Prints a line a row, `PASS name` or `FAIL name: why`; exit code 1 where one failed. The first SDK has no types for model services, so their calls
// are written on its client as the second one writes them: the arguments in `params`, the answer by its key.
package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/terraform-zstack-modules/zstack-sdk-go/pkg/client"
	"github.com/terraform-zstack-modules/zstack-sdk-go/pkg/param"
)

const (
	groups = "v1/ai/model-services/instances/groups"
	gib    = int64(1) << 30
	group  = "90000000000000000000000000000001"
)

type node struct {
	IsInitialNode bool   `json:"isInitialNode"`
	UUID          string `json:"uuid"`
	ZoneUUID      string `json:"zoneUuid"`
	CPUNum        int    `json:"cpuNum"`
	Name          string `json:"name"`
	Type          string `json:"type"`
	MemorySize    int64  `json:"memorySize"`
	Timeout       int64  `json:"timeout"`
}

type deployDetail struct {
	ModelServices           []node `json:"modelServices"`
	ServiceCreationStrategy string `json:"serviceCreationStrategy"`
	Name                    string `json:"name"`
	ResourceUUID            string `json:"resourceUuid,omitempty"`
}

type deployParam struct {
	param.BaseParam
	Params deployDetail `json:"params"`
}

type instanceView struct {
	UUID           string `json:"uuid"`
	Name           string `json:"name"`
	Status         string `json:"status"`
	VMInstanceUUID string `json:"vmInstanceUuid"`
	NodeRank       int    `json:"nodeRank"`
	CreateDate     string `json:"createDate"`
}

type groupView struct {
	UUID        string         `json:"uuid"`
	Name        string         `json:"name"`
	Description string         `json:"description"`
	Status      string         `json:"status"`
	Instances   []instanceView `json:"instances"`
}

type resultView struct {
	UUID    string `json:"uuid"`
	Success bool   `json:"success"`
}

type modelServiceView struct {
	UUID               string `json:"uuid"`
	Name               string `json:"name"`
	SupportDistributed bool   `json:"supportDistributed"`
}

var (
	cli         *client.ZSClient
	zone, entry string
	failed      bool
)

func row(name string, run func() error) {
	if err := run(); err != nil {
		failed = true
		fmt.Printf("FAIL %s: %v\n", name, err)
		return
	}
	fmt.Println("PASS " + name)
}

func must(truth bool, told interface{}) error {
	if truth {
		return nil
	}
	return fmt.Errorf("told: %+v", told)
}

func query(conditions ...string) param.QueryParam {
	made := param.NewQueryParam()
	for _, condition := range conditions {
		made.AddQ(condition)
	}
	return made
}

func deploy(name, uuid string, names ...string) (groupView, error) {
	detail := deployDetail{ServiceCreationStrategy: "parallel", Name: name, ResourceUUID: uuid}
	for index, each := range names {
		detail.ModelServices = append(detail.ModelServices, node{
			IsInitialNode: index == 0, UUID: entry, ZoneUUID: zone, CPUNum: 1, Name: each,
			Type: "VirtualMachine", MemorySize: gib,
		})
	}
	var told groupView
	err := cli.Put("v1/ai/model-services", "", deployParam{Params: detail}, &told)
	return told, err
}

func found(uuid string) ([]groupView, error) {
	told, conditions := make([]groupView, 0), query("uuid="+uuid)
	err := cli.List(groups, &conditions, &told)
	return told, err
}

func sessions() {
	row("log in", func() error {
		_, err := cli.Login()
		return err
	})
	row("validate the session", func() error {
		told, err := cli.ValidateSession()
		if err != nil {
			return err
		}
		return must(told["valid"], told)
	})
	row("version", func() error {
		told, err := cli.GetVersion()
		_ = told // it evaluates its result before the call, so that the text is always empty
		return err
	})
}

func fleet() {
	row("zones as ZoneView", func() error {
		told, err := cli.QueryZone(query("uuid=" + zone))
		if err != nil {
			return err
		}
		return must(len(told) == 1 && told[0].UUID == zone && !told[0].CreateDate.IsZero(), told)
	})
	row("a zone by its uuid, with two slashes", func() error {
		told, err := cli.GetZone(zone)
		if err != nil {
			return err
		}
		return must(told.UUID == zone, told)
	})
	row("hosts as HostInventoryView, by pages", func() error {
		conditions := query()
		conditions.Sort("+name").Limit(1)
		told, total, err := cli.PageHost(conditions)
		if err != nil {
			return err
		}
		return must(len(told) == 1 && total >= 2 && told[0].TotalCpuCapacity > 0, told)
	})
	row("clusters as ClusterInventoryView", func() error {
		told, err := cli.QueryCluster(query())
		if err != nil {
			return err
		}
		return must(len(told) == 1 && told[0].ZoneUuid == zone, told)
	})
	row("images as ImageView", func() error {
		told, err := cli.ListAllImages()
		if err != nil {
			return err
		}
		return must(len(told) == 1 && told[0].Status == "Ready", told)
	})
	row("model services", func() error {
		told, conditions := make([]modelServiceView, 0), query("uuid="+entry)
		if err := cli.List("v1/ai/model-services", &conditions, &told); err != nil {
			return err
		}
		return must(len(told) == 1 && told[0].SupportDistributed, told)
	})
}

func groupsOfMembers() {
	row("deploy of a leader and two workers", func() error {
		told, err := deploy("by-go", group, "leader", "worker-1", "worker-2")
		if err != nil {
			return err
		}
		return must(told.Status == "Running" && len(told.Instances) == 3 && told.Instances[2].NodeRank == 2, told)
	})
	row("groups by their uuid", func() error {
		told, err := found(group)
		if err != nil {
			return err
		}
		return must(len(told) == 1 && told[0].Instances[1].VMInstanceUUID != "", told)
	})
	row("all groups, page by page", func() error {
		told, conditions := make([]groupView, 0), query()
		if err := cli.ListAll(groups, &conditions, &told); err != nil {
			return err
		}
		return must(len(told) == 1, told)
	})
	row("machines as VmInstanceInventoryView", func() error {
		told, err := cli.QueryVmInstance(query("name~=worker%"))
		if err != nil {
			return err
		}
		return must(len(told) == 2 && told[0].State == "Running" && len(told[0].VMNics) == 1, told)
	})
	row("update", func() error {
		var told groupView
		body := map[string]interface{}{"updateModelServiceInstanceGroup": map[string]string{"description": "told by Go"}}
		if err := cli.Put("v1/model-service-instance-groups", group, body, &told); err != nil {
			return err
		}
		return must(told.Description == "told by Go", told)
	})
	row("restart, a result for each group", func() error {
		told := make([]resultView, 0)
		body := map[string]interface{}{"restartModelServiceGroups": map[string][]string{"uuids": {group, strings.Repeat("0", 32)}}}
		if err := cli.PutWithRespKey("v1/model-service-instance-groups", "", "results", body, &told); err != nil {
			return err
		}
		return must(len(told) == 2 && told[0].Success && !told[1].Success, told)
	})
}

func refusals() {
	row("an unknown field's value is told by its path", func() error {
		_, err := deploy("by-go", "", "")
		_, wrong := deploy("", "")
		_ = err // an empty name of a node is one that the service gives
		return must(wrong != nil && strings.Contains(wrong.Error(), "modelServices"), wrong)
	})
	row("a uuid that exists is refused", func() error {
		_, err := deploy("again", group, "one")
		return must(err != nil, err)
	})
}

func deletions() {
	row("delete", func() error {
		if err := cli.Delete(groups, group, string(param.DeleteModePermissive)); err != nil {
			return err
		}
		told, err := found(group)
		if err != nil {
			return err
		}
		return must(len(told) == 0, told)
	})
	row("delete of several", func() error {
		one, err := deploy("one", "", "one")
		if err != nil {
			return err
		}
		two, err := deploy("two", "", "two")
		if err != nil {
			return err
		}
		uuids := fmt.Sprintf("uuids=%s&uuids=%s", one.UUID, two.UUID)
		if err := cli.DeleteWithSpec(groups, "", "", uuids, nil); err != nil {
			return err
		}
		told, err := found(one.UUID)
		if err != nil {
			return err
		}
		return must(len(told) == 0, told)
	})
}

func main() {
	host := os.Args[1]
	port, err := strconv.Atoi(os.Args[2])
	if err != nil {
		panic(err)
	}
	config := func() *client.ZSConfig { return client.NewZSConfig(host, port, "zstack").RetryInterval(1).RetryTimes(60) }
	zone, entry = os.Args[5], os.Args[6]
	cli = client.NewZSClient(config().LoginAccount(os.Args[3], os.Args[4]))
	sessions()
	fleet()
	groupsOfMembers()
	refusals()
	deletions()
	row("log out", cli.Logout)
	// Last: a signature holds for minutes only, so that what is recorded ends here.
	row("access key", func() error {
		cli = client.NewZSClient(config().AccessKey(os.Args[7], os.Args[8]))
		told, err := deploy("signed", "", "one")
		if err != nil {
			return err
		}
		return cli.Delete(groups, told.UUID, string(param.DeleteModePermissive))
	})
	if failed {
		os.Exit(1)
	}
}
