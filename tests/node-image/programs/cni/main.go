// Net is the network agent of kprov's test node image: it runs once on each node, in the node's network namespace.
//
// It gives the node a CNI configuration for the pod CIDR that the cluster assigned to it, keeps a route to each other
// node's pod CIDR, and masquerades what pods send out of the cluster.
//
// It speaks to the API server that the node's kubelet uses, with its own service account's token, so that it depends on
// nothing that needs a network: not on kube-proxy, nor on a DNS addon.
package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

const (
	kubeconfig     = "/etc/kubernetes/kubelet.conf"
	serviceAccount = "/var/run/secrets/kubernetes.io/serviceaccount"
	configuration  = "/etc/cni/net.d/10-kprov.conflist"
	// routeProtocol marks the routes that are the agent's own, among those of the node.
	routeProtocol = "171"
	chain         = "KPROV-MASQUERADE"
)

// node is what the agent needs of a Kubernetes node object.
type node struct {
	Metadata struct {
		Name            string `json:"name"`
		ResourceVersion string `json:"resourceVersion"`
	} `json:"metadata"`
	Spec struct {
		PodCIDRs []string `json:"podCIDRs"`
	} `json:"spec"`
	Status struct {
		Addresses []struct {
			Type    string `json:"type"`
			Address string `json:"address"`
		} `json:"addresses"`
	} `json:"status"`
}

type nodeList struct {
	Metadata struct {
		ResourceVersion string `json:"resourceVersion"`
	} `json:"metadata"`
	Items []node `json:"items"`
}

type watchEvent struct {
	Type   string `json:"type"`
	Object node   `json:"object"`
}

// agent is the agent's view of the cluster, and what it last put in place.
type agent struct {
	name       string
	podSubnets []string
	nodes      map[string]node
	applied    map[string]string
}

func main() {
	log.SetFlags(log.Ltime | log.Lmicroseconds)
	a := &agent{
		name:       os.Getenv("NODE_NAME"),
		podSubnets: strings.FieldsFunc(os.Getenv("POD_SUBNET"), func(r rune) bool { return r == ',' || r == ' ' }),
		applied:    map[string]string{},
	}
	for {
		if err := a.follow(); err != nil {
			log.Print(err)
		}
		time.Sleep(500 * time.Millisecond)
	}
}

// follow lists the nodes, then applies each change until the connection ends.
func (a *agent) follow() error {
	api, err := connect()
	if err != nil {
		return err
	}
	body, err := api.get("/api/v1/nodes")
	if err != nil {
		return err
	}
	var list nodeList
	err = json.NewDecoder(body).Decode(&list)
	body.Close()
	if err != nil {
		return err
	}
	a.nodes = map[string]node{}
	for _, item := range list.Items {
		a.nodes[item.Metadata.Name] = item
	}
	if err := a.apply(); err != nil {
		return err
	}

	body, err = api.get("/api/v1/nodes?watch=1&timeoutSeconds=600&resourceVersion=" + list.Metadata.ResourceVersion)
	if err != nil {
		return err
	}
	defer body.Close()
	events := json.NewDecoder(bufio.NewReader(body))
	for {
		var event watchEvent
		if err := events.Decode(&event); err != nil {
			return nil // The server ends a watch when its time is over.
		}
		switch event.Type {
		case "ADDED", "MODIFIED":
			a.nodes[event.Object.Metadata.Name] = event.Object
		case "DELETED":
			delete(a.nodes, event.Object.Metadata.Name)
		default:
			return fmt.Errorf("watch: %s", event.Type)
		}
		if err := a.apply(); err != nil {
			return err
		}
	}
}

// apply puts in place what the current nodes ask for. What has not changed costs nothing.
func (a *agent) apply() error {
	self := a.nodes[a.name]
	if len(self.Spec.PodCIDRs) == 0 {
		return nil
	}
	if err := a.applyRoutes(); err != nil {
		return err
	}
	for _, family := range []string{"-4", "-6"} {
		if err := a.once("masquerade"+family, a.masqueradeRules(family), func(rules string) error {
			return masquerade(family, rules)
		}); err != nil {
			return err
		}
	}
	// The configuration comes last: with it the node becomes ready.
	return a.once("configuration", cniConfiguration(self.Spec.PodCIDRs), writeConfiguration)
}

// once calls put unless it was already done with the same value.
func (a *agent) once(what, value string, put func(string) error) error {
	if value == "" || a.applied[what] == value {
		return nil
	}
	if err := put(value); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	log.Printf("%s is in place", what)
	a.applied[what] = value
	return nil
}

// applyRoutes keeps one route for each pod CIDR of each other node, and none that no node asks for.
func (a *agent) applyRoutes() error {
	wanted := map[string]string{}
	for name, other := range a.nodes {
		if name == a.name {
			continue
		}
		for _, cidr := range other.Spec.PodCIDRs {
			for _, address := range other.Status.Addresses {
				if address.Type == "InternalIP" && family(address.Address) == family(cidr) {
					wanted[cidr] = address.Address
				}
			}
		}
	}
	for cidr, via := range wanted {
		if err := a.once("route to "+cidr, via, func(via string) error {
			return run("", "ip", family(cidr), "route", "replace", cidr, "via", via, "proto", routeProtocol)
		}); err != nil {
			return err
		}
	}
	for _, version := range []string{"-4", "-6"} {
		present, err := exec.Command("ip", version, "route", "show", "proto", routeProtocol).Output()
		if err != nil {
			continue
		}
		for _, line := range strings.Split(string(present), "\n") {
			fields := strings.Fields(line)
			if len(fields) == 0 || wanted[fields[0]] != "" {
				continue
			}
			delete(a.applied, "route to "+fields[0])
			if err := run("", "ip", version, "route", "del", fields[0], "proto", routeProtocol); err != nil {
				return err
			}
		}
	}
	return nil
}

// masqueradeRules is the content of the agent's chain: what comes from this node's pods and leaves the cluster gets the
// node's address.
func (a *agent) masqueradeRules(version string) string {
	var rules strings.Builder
	for _, subnet := range a.podSubnets {
		if family(subnet) == version {
			fmt.Fprintf(&rules, "-A %s -d %s -j RETURN\n", chain, subnet)
		}
	}
	if rules.Len() == 0 {
		return ""
	}
	for _, cidr := range a.nodes[a.name].Spec.PodCIDRs {
		if family(cidr) == version {
			fmt.Fprintf(&rules, "-A %s -s %s -m addrtype ! --dst-type LOCAL -j MASQUERADE\n", chain, cidr)
		}
	}
	return rules.String()
}

// masquerade replaces the agent's chain in one step and makes sure that packets get there.
func masquerade(version, rules string) error {
	tool := "iptables"
	if version == "-6" {
		tool = "ip6tables"
	}
	table := fmt.Sprintf("*nat\n:%s - [0:0]\n%sCOMMIT\n", chain, rules)
	if err := run(table, tool+"-restore", "-w", "5", "--noflush"); err != nil {
		return err
	}
	jump := []string{"POSTROUTING", "-m", "comment", "--comment", "kprov: pods to the outside", "-j", chain}
	if run("", tool, append([]string{"-w", "5", "-t", "nat", "-C"}, jump...)...) == nil {
		return nil
	}
	return run("", tool, append([]string{"-w", "5", "-t", "nat", "-A"}, jump...)...)
}

// cniConfiguration is the node's CNI configuration, with one address range for each of its pod CIDRs.
func cniConfiguration(cidrs []string) string {
	var ranges [][]map[string]string
	var routes []map[string]string
	for _, cidr := range cidrs {
		ranges = append(ranges, []map[string]string{{"subnet": cidr}})
		if family(cidr) == "-6" {
			routes = append(routes, map[string]string{"dst": "::/0"})
		} else {
			routes = append(routes, map[string]string{"dst": "0.0.0.0/0"})
		}
	}
	interfaces := map[string]interface{}{
		"type":   "ptp",
		"ipMasq": false,
		"ipam": map[string]interface{}{
			"type":    "host-local",
			"dataDir": "/run/cni-ipam-state",
			"ranges":  ranges,
			"routes":  routes,
		},
	}
	if device, err := net.InterfaceByName("eth0"); err == nil {
		interfaces["mtu"] = device.MTU
	}
	text, err := json.MarshalIndent(map[string]interface{}{
		"cniVersion": "0.4.0",
		"name":       "kprov",
		"plugins": []interface{}{
			interfaces,
			map[string]interface{}{"type": "portmap", "capabilities": map[string]bool{"portMappings": true}},
		},
	}, "", "  ")
	if err != nil {
		panic(err)
	}
	return string(text) + "\n"
}

func writeConfiguration(text string) error {
	if present, err := os.ReadFile(configuration); err == nil && string(present) == text {
		return nil
	}
	temporary := filepath.Join(filepath.Dir(configuration), ".kprov")
	if err := os.WriteFile(temporary, []byte(text), 0o644); err != nil {
		return err
	}
	return os.Rename(temporary, configuration)
}

// family is the `ip` flag for an address or a CIDR.
func family(address string) string {
	if strings.Contains(address, ":") {
		return "-6"
	}
	return "-4"
}

func run(input, name string, arguments ...string) error {
	command := exec.Command(name, arguments...)
	command.Stdin = strings.NewReader(input)
	var output bytes.Buffer
	command.Stdout, command.Stderr = &output, &output
	if err := command.Run(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(arguments, " "), err, output.String())
	}
	return nil
}

// server is a connection to the API.
type server struct {
	address string
	token   string
	client  *http.Client
}

func connect() (*server, error) {
	address, err := serverAddress()
	if err != nil {
		return nil, err
	}
	token, err := os.ReadFile(filepath.Join(serviceAccount, "token"))
	if err != nil {
		return nil, err
	}
	authority, err := os.ReadFile(filepath.Join(serviceAccount, "ca.crt"))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(authority) {
		return nil, errors.New("the service account has no CA certificate")
	}
	transport := &http.Transport{
		TLSClientConfig:       &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		DialContext:           (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 10 * time.Second}).DialContext,
		ResponseHeaderTimeout: 10 * time.Second,
	}
	return &server{address, strings.TrimSpace(string(token)), &http.Client{Transport: transport}}, nil
}

// serverAddress is the API server that the node's kubelet uses; if that cannot be read, the cluster's own service.
func serverAddress() (string, error) {
	text, err := os.ReadFile(kubeconfig)
	if err == nil {
		for _, line := range strings.Split(string(text), "\n") {
			if value := strings.TrimSpace(line); strings.HasPrefix(value, "server:") {
				return strings.Trim(strings.TrimSpace(strings.TrimPrefix(value, "server:")), `"'`), nil
			}
		}
	}
	host, port := os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT")
	if host == "" {
		return "", errors.New("no API server is known")
	}
	return "https://" + net.JoinHostPort(host, port), nil
}

func (s *server) get(path string) (io.ReadCloser, error) {
	request, err := http.NewRequest(http.MethodGet, s.address+path, nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Authorization", "Bearer "+s.token)
	request.Header.Set("Accept", "application/json")
	response, err := s.client.Do(request)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		response.Body.Close()
		return nil, fmt.Errorf("GET %s: %s", path, response.Status)
	}
	return response.Body, nil
}
