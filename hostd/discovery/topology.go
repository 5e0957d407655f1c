package discovery

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

// node is one NUMA node with processors.
type node struct {
	id          int
	cores       [][]uint16 // hardware threads of each core, both in order
	memoryMiB   uint64
	hugepageKiB uint32
	hugepages   uint64
}

// Bounds of a machine: sysfs that says more is not believed.
const (
	nodesMax   = 64
	threadsMax = 8192
)

const (
	nodeDir = "devices/system/node"
	cpuDir  = "devices/system/cpu"
)

// topology reads the nodes that have processors and memory, in order. A core whose
// threads do not agree about each other is left out: it cannot be given away whole.
func (l *look) topology() ([]*node, error) {
	online, err := l.threads(cpuDir + "/online")
	if err != nil {
		return nil, err
	}
	names, err := l.sys.Tree.List(nodeDir)
	if errors.Is(err, fs.ErrNotExist) {
		return l.singleNode(online) // a kernel without NUMA
	}
	if err != nil {
		return nil, err
	}
	var out []*node
	for _, name := range names {
		n, err := strconv.ParseUint(strings.TrimPrefix(name, "node"), 10, 16)
		if err != nil || name != fmt.Sprintf("node%d", n) {
			continue // "online", "possible", ...
		}
		if n > 255 || len(out) == nodesMax {
			return nil, fmt.Errorf("discovery: NUMA node %d, or more than %d nodes: no machine has that", n, nodesMax)
		}
		dir := path.Join(nodeDir, name)
		own, err := l.threads(dir + "/cpulist")
		if err != nil {
			return nil, err
		}
		here := &node{id: int(n)}
		if here.memoryMiB, err = memTotal(l.sys.Tree.Bytes(dir + "/meminfo")); err != nil {
			return nil, fmt.Errorf("discovery: %s/meminfo: %w", dir, err)
		}
		if here.hugepageKiB, here.hugepages, err = l.hugepages(dir + "/hugepages"); err != nil {
			return nil, err
		}
		here.cores = l.cores(own, online)
		if len(here.cores) > 0 && here.memoryMiB > 0 { // memory alone is a GPU's, or on a CXL card
			out = append(out, here)
		}
	}
	if len(out) == 0 {
		return nil, errors.New("discovery: no NUMA node has processors and memory")
	}
	slices.SortFunc(out, func(a, b *node) int { return a.id - b.id })
	return out, nil
}

func (l *look) singleNode(online []uint16) ([]*node, error) {
	total, err := memTotal(l.proc.Bytes("meminfo"))
	if err != nil {
		return nil, fmt.Errorf("discovery: /proc/meminfo: %w", err)
	}
	n := &node{cores: l.cores(online, online), memoryMiB: total}
	if len(n.cores) == 0 {
		return nil, errors.New("discovery: no processor's core can be told from the others")
	}
	return []*node{n}, nil
}

// cores groups hardware threads of one node by core.
func (l *look) cores(own, online []uint16) [][]uint16 {
	list := map[uint16][]uint16{}
	for _, t := range own {
		if _, on := slices.BinarySearch(online, t); !on {
			continue
		}
		siblings, err := l.threads(fmt.Sprintf("%s/cpu%d/topology/thread_siblings_list", cpuDir, t))
		if err == nil {
			list[t] = siblings
		}
	}
	var out [][]uint16
	for _, t := range own {
		siblings := list[t]
		if len(siblings) == 0 || siblings[0] != t {
			continue // a core is counted at its first thread
		}
		whole := true
		for _, s := range siblings {
			whole = whole && slices.Equal(list[s], siblings)
		}
		if whole {
			out = append(out, siblings)
		}
	}
	return out
}

// threads reads a list such as "0-55,112-167": in order, each once.
func (l *look) threads(name string) ([]uint16, error) {
	s, err := l.sys.Tree.Text(name)
	if err != nil {
		return nil, fmt.Errorf("discovery: %w", err)
	}
	out, err := parseList(s)
	if err != nil {
		return nil, fmt.Errorf("discovery: %s: %w", name, err)
	}
	return out, nil
}

func parseList(s string) ([]uint16, error) {
	var out []uint16
	if s == "" {
		return nil, nil
	}
	for part := range strings.SplitSeq(s, ",") {
		from, to, isRange := strings.Cut(part, "-")
		a, err := strconv.ParseUint(from, 10, 16)
		b := a
		if err == nil && isRange {
			b, err = strconv.ParseUint(to, 10, 16)
		}
		if err != nil || b < a || b >= threadsMax {
			return nil, fmt.Errorf("%q is no list of processors below %d", part[:min(len(part), 32)], threadsMax)
		}
		for n := a; n <= b; n++ {
			out = append(out, uint16(n))
		}
		if len(out) > threadsMax {
			return nil, fmt.Errorf("more than %d processors", threadsMax)
		}
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// memTotal is the whole memory of a node or of the host in MiB, rounded down so
// that another kernel's own needs do not make it another host: to whole GiB, below
// 16 GiB to 64 MiB.
func memTotal(b []byte, err error) (uint64, error) {
	if err != nil {
		return 0, err
	}
	for line := range strings.SplitSeq(string(b), "\n") {
		_, rest, ok := strings.Cut(line, "MemTotal:")
		if !ok {
			continue
		}
		kib, err := strconv.ParseUint(strings.TrimSpace(strings.TrimSuffix(rest, "kB")), 10, 50)
		if err != nil {
			return 0, fmt.Errorf("MemTotal is no number of kB: %w", err)
		}
		if mib := kib >> 10; mib < 16<<10 {
			return mib &^ 63, nil
		}
		return kib >> 10 &^ 1023, nil
	}
	return 0, errors.New("no MemTotal")
}

// hugepages is the largest size of which the node has any set aside.
func (l *look) hugepages(dir string) (kib uint32, n uint64, err error) {
	names, err := l.sys.Tree.List(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, 0, nil
	}
	if err != nil {
		return 0, 0, fmt.Errorf("discovery: %w", err)
	}
	for _, name := range names {
		size, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimPrefix(name, "hugepages-"), "kB"), 10, 32)
		if err != nil || uint32(size) <= kib {
			continue
		}
		have, err := l.sys.Tree.Uint(path.Join(dir, name, "nr_hugepages"), 40)
		if err != nil {
			return 0, 0, fmt.Errorf("discovery: %w", err)
		}
		if have > 0 {
			kib, n = uint32(size), have
		}
	}
	return kib, n, nil
}
