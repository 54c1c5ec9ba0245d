package api

import "mimeo/internal/cluster/node"

// Paths for groups and for the inventory as a whole. A change that is only planned (dry_run) checks and says everything
// that the change itself would, and changes nothing.
//
//	GET    /v1/groups                         → []Group, in order of their names
//	POST   /v1/groups           GroupChange   → Plan (makes or changes groups)
//	DELETE /v1/groups/{name}?dry_run=1        → Plan (its nodes leave it)
//	POST   /v1/nodes/plan       NodeSet       → Plan (what PATCH /v1/nodes would change; nothing is changed)
//	GET    /v1/nodes/{name}/attributes        → []Attribute: every key, its value and where it came from
//	GET    /v1/inventory?range=RANGE          → Inventory, without passwords (all where range is left out)
//	POST   /v1/inventory        InventoryPut  → Plan

// Inventory is groups and nodes with what was said of each. An export gives it, an import asks for it.
type Inventory struct {
	Groups []InventoryItem `json:"groups,omitempty"`
	Nodes  []InventoryItem `json:"nodes,omitempty"`
}

// InventoryItem is a node or a group: its name and its own keys and values, as NodeSet has them. What a node inherits
// or has shown of itself is not among them.
type InventoryItem struct {
	Name string            `json:"name"`
	Set  map[string]string `json:"set"`
}

// InventoryPut makes and changes groups and nodes in one transaction. Those that are not named stay as they are. Of
// those that are named, keys that are not given stay as they are too, unless Replace is set; an empty value unsets.
type InventoryPut struct {
	Inventory
	Replace bool   `json:"replace,omitempty"` // keys that are not given are unset, but for bmc.password
	DryRun  bool   `json:"dry_run,omitempty"` // say what would change, and change nothing
	Expect  string `json:"expect,omitempty"`  // Plan.ID of a dry run: refused with "conflict" where it would change otherwise by now
}

// GroupChange makes groups, or changes groups that there are.
type GroupChange struct {
	Names  []string          `json:"names"`
	Set    map[string]string `json:"set"`           // as NodeSet.Set, but for mac, ip and groups
	New    bool              `json:"new,omitempty"` // they must not be there yet; without it, they must
	DryRun bool              `json:"dry_run,omitempty"`
	Expect string            `json:"expect,omitempty"` // as in InventoryPut
}

// Plan is what a change changes. It lists only what differs.
type Plan struct {
	ID       string       `json:"id"`                 // names this very change
	Applied  bool         `json:"applied"`            // false for a dry run
	Groups   []PlanItem   `json:"groups,omitempty"`   // in order of their names
	Nodes    []PlanItem   `json:"nodes,omitempty"`    // in order of their names; their own keys only
	Same     int          `json:"same,omitempty"`     // nodes and groups that were named and have it all already
	Affected []PlanEffect `json:"affected,omitempty"` // what becomes another value on nodes, own or inherited
	Warnings []string     `json:"warnings,omitempty"`
}

// PlanItem is a node or a group that changes.
type PlanItem struct {
	Name    string    `json:"name"`
	New     bool      `json:"new,omitempty"`
	Removed bool      `json:"removed,omitempty"`
	Keys    []PlanKey `json:"keys,omitempty"` // in order of the keys
}

// PlanKey is a key whose value changes. Old or New is empty where it is not set. Of passwords it says "(set)" only.
type PlanKey struct {
	Key string `json:"key"`
	Old string `json:"old,omitempty"`
	New string `json:"new,omitempty"`
}

// PlanEffect is a change of one key's value in effect, on all nodes on which it is the same change.
type PlanEffect struct {
	PlanKey
	Nodes []node.Name `json:"nodes"`
}

// Group is a group of nodes, from which they inherit.
type Group struct {
	Name        string            `json:"name"`
	Set         map[string]string `json:"set"` // its own keys and values, without a password
	HasPassword bool              `json:"has_password,omitempty"`
	Nodes       []node.Name       `json:"nodes"`
}

// Attribute is one key of a node, its value, where it came from, and what was said as well and does not count.
type Attribute = node.Explained
