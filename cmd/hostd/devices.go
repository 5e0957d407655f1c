package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/gpuaas/gpuaas/hostd/wipe"
)

// devicesCommand is for the operator who is called because a wipe will not take a
// device for what was approved. It touches no device and waits for nobody: what is
// accepted or forgotten counts at the next wipe, so hostd may run.
func devicesCommand() *cobra.Command {
	var file, dir, reason string
	open := func() (*wipe.Store, error) {
		if dir == "" {
			c := config{}
			if err := c.read(file); err != nil {
				return nil, err
			}
			dir = c.Dir
		}
		at := filepath.Join(dir, "linux", "wipe")
		if _, err := os.Stat(at); err != nil {
			return nil, fmt.Errorf("no wipe was done by a hostd with this directory: %w", err)
		}
		return wipe.OpenStore(at)
	}
	cmd := &cobra.Command{Use: "devices", Short: "What this host remembers of its drives and virtual functions, and what their wipes refused"}
	cmd.PersistentFlags().StringVar(&file, "config", "/etc/hostd.yaml", "YAML file with the settings of hostd run")
	cmd.PersistentFlags().StringVar(&dir, "dir", "", "the host's own directory; default: that of the settings")
	list := &cobra.Command{
		Use: "list", Short: "Devices with their baselines, and what a wipe found instead", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := open()
			if err != nil {
				return err
			}
			known, err := s.Devices(cmd.Context())
			if err != nil {
				return err
			}
			return printDevices(cmd.OutOrStdout(), known)
		},
	}
	accept := &cobra.Command{
		Use: "accept SERIAL --reason WORD", Short: "Accept exactly what the last wipe of the device found: the next wipe makes it the baseline, and says so in its evidence", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := open()
			if err != nil {
				return err
			}
			r, err := s.Accept(args[0], reason)
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "accepted what was found of %s %s at %s: now have its slot wiped again (gpuctl slots rewipe)\n", r.Component, r.Serial, r.At.Format("2006-01-02 15:04:05"))
			return err
		},
	}
	accept.Flags().StringVar(&reason, "reason", "", "a word that goes into the evidence: firmware-update, a ticket's number; nobody's name")
	forget := &cobra.Command{
		Use: "forget SERIAL", Short: "Forget what is known of a device that has left for good, or whose record is damaged", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := open()
			if err != nil {
				return err
			}
			if err := s.Forget(args[0]); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "forgotten: the next wipe of %s here refuses it until it is accepted\n", args[0])
			return err
		},
	}
	cycled := &cobra.Command{
		Use: "power-cycled SERIAL --reason WORD", Short: "Say that this host was without power since no reset of the device worked: a reboot is not enough", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := open()
			if err != nil {
				return err
			}
			boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
			if err != nil {
				return err
			}
			if err := s.ConfirmPowerCycle(args[0], strings.TrimSpace(string(boot)), reason); err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "your word goes into the evidence: now have the slot of %s wiped again (gpuctl slots rewipe)\n", args[0])
			return err
		},
	}
	cycled.Flags().StringVar(&reason, "reason", "", "a word that goes into the evidence: a ticket's number; nobody's name")
	for _, c := range []*cobra.Command{list, accept, forget, cycled} {
		run := c.RunE
		c.RunE = func(cmd *cobra.Command, args []string) error {
			err := run(cmd, args)
			if errors.Is(err, os.ErrPermission) {
				return fmt.Errorf("this needs root: %w", err)
			}
			return err
		}
		cmd.AddCommand(c)
	}
	return cmd
}

func printDevices(out io.Writer, known []wipe.Known) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "SERIAL\tBASELINE\tREFUSED\tACCEPTED\tPOWER CYCLE")
	for _, k := range known {
		refused := "-"
		if k.Refused != nil {
			refused = k.Refused.At.UTC().Format("2006-01-02T15:04Z") + " " + k.Refused.Reason
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", k.Serial, cmp.Or(k.Baseline, "-"), refused, cmp.Or(k.Accepted, "-"), cmp.Or(k.Cycle, "-"))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, k := range known {
		if k.Refused != nil {
			if _, err := fmt.Fprintf(out, "\n%s, found: %s\n  %s\n", k.Serial, k.Refused.Brief(), k.Refused.Detail); err != nil {
				return err
			}
		}
	}
	return nil
}
