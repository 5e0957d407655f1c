package emuhost

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/gpuaas/gpuaas/hostd/emuhost/wire"
)

// processor is all that QEMU can emulate, but for what costs a third of the speed and
// shows nothing about a host. With erms and fsrm the kernel clears and copies memory byte
// by byte, each of them emulated.
const processor = "max,la57=off,smap=off,smep=off,pku=off,umip=off,erms=off,fsrm=off"

// arguments are QEMU's.
func (h *Host) arguments() ([]string, error) {
	o := &h.o
	kernel := append([]string{
		"console=ttyS0", "loglevel=4", "mitigations=off", "random.trust_cpu=on",
		"intel_iommu=on", "no_timer_check", // the emulated timer is slow to prove itself
		"nohz=off", "highres=off", // and a tick that was missed is made up for by the next
		"cryptomgr.notests", // a second of every boot
	}, o.KernelArgs...)
	args := []string{
		"-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", processor, "-m", strconv.Itoa(o.MemoryMiB),
		"-nodefaults", "-display", "none",
		"-device", "intel-iommu,intremap=on,device-iotlb=on",
		"-kernel", Image("kernel"), "-initrd", Image("initrd"), "-append", strings.Join(kernel, " "),
		"-drive", "file=" + h.path("root.qcow2") + ",if=none,id=root,format=qcow2,discard=unmap", "-device", "virtio-blk-pci,drive=root",
		"-virtfs", "local,path=" + o.Share + ",mount_tag=share,security_model=none",
		"-netdev", "user,id=uplink", "-device", "virtio-net-pci,netdev=uplink,romfile=,mac=52:54:00:ee:00:01",
		"-chardev", "file,id=console,append=on,path=" + h.path("console.log"), "-serial", "chardev:console",
		"-device", "virtio-serial-pci,id=serial",
		"-chardev", "socket,id=agent,server=on,wait=off,path=" + h.socket("agent"),
		"-device", "virtserialport,bus=serial.0,chardev=agent,name=" + wire.PortName,
		"-qmp", "unix:" + h.socket("qmp") + ",server=on,wait=off",
	}
	args = append(args, h.processors()...)
	for i, p := range o.Topology.Ports {
		more, err := h.port(i+1, p)
		if err != nil {
			return nil, err
		}
		args = append(args, more...)
	}
	return args, nil
}

// processors are the cores; with two NUMA nodes half of them on each, and a PCI root
// for each.
func (h *Host) processors() []string {
	cores := h.o.Topology.Cores
	if h.o.Topology.Nodes < 2 {
		return []string{"-smp", strconv.Itoa(cores)}
	}
	half := cores / 2
	args := []string{"-smp", fmt.Sprintf("%d,sockets=2,cores=%d", cores, half)}
	for n := range 2 {
		args = append(args,
			"-object", fmt.Sprintf("memory-backend-ram,id=memory%d,size=%dM", n, h.o.MemoryMiB/2),
			"-numa", fmt.Sprintf("node,nodeid=%d,cpus=%d-%d,memdev=memory%d", n, n*half, (n+1)*half-1, n),
			"-device", fmt.Sprintf("pxb-pcie,id=root%d,bus_nr=%d,numa_node=%d,bus=pcie.0", n, 0x40*(n+1), n))
	}
	return args
}

// port is a root port and what is behind it. Slot numbers begin at 1.
func (h *Host) port(slot int, p Port) ([]string, error) {
	bus, reserve := "pcie.0", ""
	if h.o.Topology.Nodes > 1 {
		bus = fmt.Sprintf("root%d", p.Node)
	}
	for _, d := range p.Devices {
		if g, ok := d.(BigGPU); ok { // firmware leaves little room otherwise
			reserve = fmt.Sprintf(",pref64-reserve=%dM", 2*g.MiB)
		}
	}
	args := []string{"-device", fmt.Sprintf("pcie-root-port,id=%s.port,chassis=%d,slot=%d,bus=%s%s", p.Name, slot, slot, bus, reserve)}
	behind := p.Name + ".port"
	if p.Shared {
		args = append(args, "-device", fmt.Sprintf("pcie-pci-bridge,id=%s.bridge,bus=%s", p.Name, behind))
		behind = p.Name + ".bridge"
	}
	for i, d := range p.Devices {
		id, at := p.Name, fmt.Sprintf("bus=%s,addr=0.%d", behind, i)
		if i > 0 {
			id = fmt.Sprintf("%s.%d", p.Name, i)
		}
		switch {
		case p.Shared:
			at = fmt.Sprintf("bus=%s,addr=%d", behind, i+1)
		case i == 0 && len(p.Devices) > 1:
			at += ",multifunction=on"
		}
		more, err := d.arguments(h, id, at)
		if err != nil {
			return nil, err
		}
		args = append(args, more...)
	}
	return args, nil
}

func device(model, id, at string) []string {
	return []string{"-device", fmt.Sprintf("%s,id=%s,%s", model, id, at)}
}

func (GPU) arguments(_ *Host, id, at string) ([]string, error) { return device("edu", id, at), nil }

func (Display) arguments(_ *Host, id, at string) ([]string, error) {
	return device("bochs-display", id, at), nil
}

func (Audio) arguments(_ *Host, id, at string) ([]string, error) {
	return device("ich9-intel-hda", id, at), nil
}

func (g BigGPU) arguments(_ *Host, id, at string) ([]string, error) {
	memory := fmt.Sprintf("memory-backend-ram,id=%s.bar,size=%dM", id, g.MiB)
	return append([]string{"-object", memory}, device("ivshmem-plain,memdev="+id+".bar", id, at)...), nil
}

// QEMU itself flushes nothing, so that a flush stands in the record where it was asked
// for: what was still being written then was not promised. Without write-zeroes and
// discard there are only whole writes.
func (d Disk) arguments(_ *Host, id, at string) ([]string, error) {
	drive := fmt.Sprintf("driver=blklogwrites,node-name=%s.drive,file.driver=file,file.filename=%s,file.cache.no-flush=on,log.driver=file,log.filename=%s,log.cache.no-flush=on,log-super-update-interval=1",
		id, d.File, d.File+recordSuffix)
	if err := os.WriteFile(d.File+recordSuffix, nil, 0o600); err != nil {
		return nil, err
	}
	return append([]string{"-blockdev", drive}, device("virtio-blk-pci,drive="+id+".drive,write-cache=on,discard=off,write-zeroes=off,serial="+id, id, at)...), nil
}

func (n NIC) arguments(_ *Host, id, at string) ([]string, error) {
	return append([]string{"-netdev", "user,restrict=on,id=" + id + ".net"}, device("igb,romfile=,netdev="+id+".net,mac="+n.MAC, id, at)...), nil
}

func (n NVMe) arguments(h *Host, id, at string) ([]string, error) {
	file, err := h.drive(n)
	if err != nil {
		return nil, err
	}
	if n.Fails {
		file = "blkdebug:" + h.path("fail.cfg") + ":" + file
	}
	args := []string{"-drive", "file=" + file + ",if=none,format=raw,discard=unmap,detect-zeroes=unmap,id=" + id + ".drive"}
	model := "nvme,serial=" + n.Serial
	blocks := ""
	if n.BlockBytes != 0 {
		blocks = fmt.Sprintf(",logical_block_size=%d,physical_block_size=%d", n.BlockBytes, n.BlockBytes)
	}
	if n.VFs == 0 {
		return append(args, device(model+",drive="+id+".drive"+blocks, id, at)...), nil
	}
	// A controller that can be divided is one of a subsystem, which has the namespace.
	args = append(args, "-device", "nvme-subsys,id="+id+".subsystem")
	args = append(args, device(fmt.Sprintf("%s,subsys=%s.subsystem,sriov_max_vfs=%d,sriov_vq_flexible=%d,sriov_vi_flexible=%d", model, id, n.VFs, 2*n.VFs, n.VFs), id, at)...)
	return append(args, "-device", "nvme-ns,drive="+id+".drive,nsid=1,bus="+id+blocks), nil
}
