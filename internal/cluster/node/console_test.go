package node

import "testing"

func TestConsoleLog(t *testing.T) {
	for v, ok := range map[string]bool{"all": true, "attached": true, "none": true, "always": false, "ALL": false} {
		if _, err := Check(LabelPrefix+LabelConsoleLog, v); (err == nil) != ok {
			t.Errorf("%s: %v", v, err)
		}
	}
}
