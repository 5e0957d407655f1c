package domain

import "testing"

func image(name, version string, project ProjectID, d byte) ImageSpec {
	return ImageSpec{Project: project, Name: name, Version: version, Digest: Digest{d}, SizeBytes: 100, Format: ImageQCOW2, DiskBytes: 1 << 30}
}

func TestImageCatalog(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	h := s.host("h1", 8, "r1")
	s.sku("gpu-1x", 1, 1)
	f, other := s.tenant("acme", 1e9), s.tenant("other", 1e9)

	// A site without images of its own takes every name.
	s.launch(f, "any", "gpu-1x", 1)

	s.must(System, &RegisterImage{image("tiny", "1", ProjectID{}, 1)})
	two := s.must(System, &RegisterImage{image("tiny", "2", ProjectID{}, 2)})[0].(*ImageRegistered)
	if got := s.must(System, &RegisterImage{image("tiny", "2", ProjectID{}, 2)}); len(got) != 0 {
		t.Errorf("a repeat gave %v", got)
	}
	s.refused(System, &RegisterImage{image("tiny", "2", ProjectID{}, 3)}, "image.version_taken")
	mine := s.must(f.key, &RegisterImage{image("own", "", f.project, 7)})[0].(*ImageRegistered)
	if mine.Image.Version != "070000000000" || mine.Tenant != f.id {
		t.Errorf("registered as %+v", mine)
	}

	launch := func(f tenantFixture, ref string) *CreateAllocation {
		return &CreateAllocation{Project: f.project, SKUName: "gpu-1x", Count: 1, Image: ref}
	}
	for ref, want := range map[string]byte{"": 2, "tiny": 2, "tiny:1": 1, "own": 7, "own:070000000000": 7} {
		e := s.must(f.key, launch(f, ref))[0].(*AllocationPlaced)
		if e.ImageHash != (Digest{want}) || e.Private != (want == 7) {
			t.Errorf("%q is %+v", ref, e)
		}
	}
	private := 0
	for _, v := range h.placement().Desired.VMs {
		if v.Private {
			private++
		}
	}
	if private != 2 {
		t.Errorf("%d VMs have a private image", private)
	}
	for _, ref := range []string{"nothing", "tiny:3", "tiny:", "tiny:1:1", ":1"} {
		s.refused(f.key, launch(f, ref), "image.not_found")
	}
	s.refused(other.key, launch(other, "own"), "image.not_found")
	s.refused(other.key, &RetireImage{mine.ID}, "image.not_found")
	s.refused(f.key, &RetireImage{two.ID}, "auth.platform_only")
	s.refused(f.key, &RegisterImage{image("mine", "1", ProjectID{}, 9)}, "auth.platform_only")
	s.refused(other.key, &RegisterImage{image("mine", "1", f.project, 9)}, "project.not_found")

	// What is retired is not launched, what runs from it is kept, its version is used up.
	s.must(System, &RetireImage{two.ID})
	if got := s.must(System, &RetireImage{two.ID}); len(got) != 0 {
		t.Errorf("a repeat gave %v", got)
	}
	s.refused(f.key, launch(f, "tiny:2"), "image.not_found")
	s.refused(System, &RegisterImage{image("tiny", "2", ProjectID{}, 2)}, "image.version_taken")
	if e := s.must(f.key, launch(f, "tiny"))[0].(*AllocationPlaced); e.ImageHash != (Digest{1}) {
		t.Errorf("the newest is %s", e.ImageHash)
	}
	if !s.w.ImageInUse(Digest{2}) || s.w.ImageInUse(Digest{9}) {
		t.Error("which bytes are needed is wrong")
	}
	if !s.w.ImageContent(f.project, Digest{7}) || !s.w.ImageContent(f.project, Digest{1}) || s.w.ImageContent(other.project, Digest{7}) {
		t.Error("whose bytes they are is wrong")
	}
	w, err := DecodeWorld(s.w.Encode())
	if err != nil {
		t.Fatal(err)
	}
	if i, rerr := w.resolveImage(f.project, "tiny"); rerr != nil || i.Digest != (Digest{1}) || w.imageCounts[f.project] != 1 || !w.siteImages {
		t.Errorf("after a snapshot tiny is %+v (%v)", i, rerr)
	}
}

func TestImagesThatAreRefused(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	good := image("tiny", "1", ProjectID{}, 1)
	for code, change := range map[string]func(*ImageSpec){
		"name.invalid":   func(i *ImageSpec) { i.Name = "Tiny\n" },
		"image.version":  func(i *ImageSpec) { i.Version = "1:2" },
		"digest.invalid": func(i *ImageSpec) { i.Digest = Digest{} },
		"image.size":     func(i *ImageSpec) { i.SizeBytes = 1 << 40 },
		"image.format":   func(i *ImageSpec) { i.Format = "vmdk" },
	} {
		bad := good
		change(&bad)
		s.refused(System, &RegisterImage{bad}, code)
	}
	for i := range maxImages {
		spec := good
		spec.Digest = Digest{1, byte(i), byte(i >> 8)}
		spec.Version = ""
		spec.Name = "n" + string(rune('a'+i%26))
		spec.Version = spec.Digest.String()[7:40]
		s.must(System, &RegisterImage{spec})
	}
	s.refused(System, &RegisterImage{good}, "image.too_many")
}
