package node

import (
	"fmt"
	"slices"
	"strings"
)

// LabelScripts begins the labels that name postscripts, as label.postscripts.post=munge.sh,mounts.sh.
const LabelScripts = "postscripts."

// ScriptStages are when postscripts run: before the task, after it, in a deployed system's root, and at its first boot.
var ScriptStages = []string{"pre", "post", "root", "first"}

// ScriptTasks are the tasks that run postscripts. Those of a deployed system run in deploys alone.
var ScriptTasks = []string{"capture", "deploy", "wipe", "stateless"}

// ScriptKeys are what follows LabelScripts: a stage, or one of the stages that several tasks have with one task.
func ScriptKeys() []string {
	out := slices.Clone(ScriptStages)
	for _, stage := range ScriptStages {
		for _, task := range ScriptTasks {
			if InTask(stage, task) && InTask(stage, "capture") {
				out = append(out, stage+"."+task)
			}
		}
	}
	return out
}

// InTask tells whether a task has a stage.
func InTask(stage, task string) bool {
	return slices.Contains(ScriptTasks, task) && (task == "deploy" || stage == "pre" || stage == "post")
}

// CheckScripts tells whether a text may be said under a key that begins with LabelScripts.
func CheckScripts(key, v string) error {
	after, ok := strings.CutPrefix(key, LabelScripts)
	if !ok {
		return fmt.Errorf("there is no %q: want %s and one of %s", key, LabelScripts, strings.Join(ScriptKeys(), ", "))
	}
	return checkScripts(after, v)
}

func checkScripts(key, v string) error {
	if !slices.Contains(ScriptKeys(), key) {
		return fmt.Errorf("there is no stage %q: want %s", key, strings.Join(ScriptKeys(), ", "))
	}
	for _, item := range List(v) {
		if item != DropAll && !IsScript(strings.TrimPrefix(item, "-")) {
			return fmt.Errorf("%q is no name of a postscript", item)
		}
	}
	return nil
}

// DropAll stands in a list of postscripts for taking away all that was inherited so far; "-NAME" takes away one.
const DropAll = "-*"

// IsScript tells whether a text may name a file of the postscripts folder.
func IsScript(s string) bool {
	for i, c := range []byte(s) {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !letter && (i == 0 || c != '.' && c != '_' && c != '-') {
			return false
		}
	}
	return s != "" && len(s) <= 64
}

// ScriptList is what one group or the node itself says under a key.
type ScriptList struct {
	From  string   // FromGroup or FromOwn
	Group string   // where it is a group's
	Key   string   // without LabelScripts
	Items []string // names, "-NAME", DropAll
}

// Scripts are the lists of a node for a stage in a task, in the order in which they are applied: those of the group of
// all nodes, of its groups from the last to the first, and its own; of each the stage's before the one for the task.
func (s Sources) Scripts(n Name, stage, task string) []ScriptList {
	var out []ScriptList
	add := func(from, group string, set Values) {
		for _, key := range []string{stage, stage + "." + task} {
			v := set[LabelPrefix+LabelScripts+key]
			if from == FromGroup {
				v, _ = Inherit(LabelPrefix+LabelScripts+key, v, n) // what cannot be filled in was refused when it was said
			}
			if items := List(v); len(items) > 0 {
				out = append(out, ScriptList{From: from, Group: group, Key: key, Items: items})
			}
		}
	}
	for _, g := range slices.Backward(s.Groups) {
		add(FromGroup, g.Name, g.Set)
	}
	add(FromOwn, "", s.Own)
	return out
}
