package node

import "testing"

func TestBMCAddresses(t *testing.T) {
	for v, of := range map[string]struct{ node, group bool }{
		"ipmi://10.0.9.1":           {true, false}, // all nodes of the group would have the same
		"ipmi://10.0.9.{n}":         {false, true},
		"redfish://bmc-{name}:8443": {false, true},
		"exec:strip-2":              {true, true},
		"exec:":                     {false, false},
		"exec:/bin/sh":              {false, false},
		"exec:a b":                  {false, false},
		"wol:":                      {true, true},
		"wol:eth1":                  {true, true},
		"wol:bond0.100":             {true, true},
		"wol:eth1; reboot":          {false, false},
		"wol://10.5.0.255":          {true, true},
		"wol://10.5.0.255:7":        {true, true},
		"wol://somewhere":           {false, false},
		"manual:":                   {true, true},
		"telnet://10.0.9.1":         {false, false},
		"ipmi://ops:pw@10.0.9.1":    {false, false},
	} {
		if _, err := Check("bmc", v); (err == nil) != of.node && of != (struct{ node, group bool }{false, true}) {
			t.Errorf("%q of a node: %v", v, err)
		}
		if _, err := CheckGroup("bmc", v); (err == nil) != of.group {
			t.Errorf("%q of a group: %v", v, err)
		}
	}
}
