package noderange

import (
	"fmt"
	"sort"
	"strconv"
	"strings"

	"mimeo/internal/cluster/node"
)

// Fold writes names shortly, so that Expand gives them back, sorted: n[01-16],gpu1.
func Fold(names []node.Name) string {
	type key struct {
		head  string
		width int
	}
	rows := map[key][]int{}
	var out []string
	for _, n := range names {
		m := numbered.FindStringSubmatch(string(n))
		if m == nil || m[1] == "" || len(m[2]) > 9 {
			out = append(out, string(n))
			continue
		}
		i, _ := strconv.Atoi(m[2])
		w := 0
		if strings.HasPrefix(m[2], "0") || len(m[2]) > 1 {
			w = len(m[2])
		}
		if !strings.HasPrefix(m[2], "0") && rows[key{m[1], len(m[2])}] == nil {
			w = 0
		}
		rows[key{m[1], w}] = append(rows[key{m[1], w}], i)
	}
	for k, nums := range rows {
		sort.Ints(nums)
		var parts []string
		for i := 0; i < len(nums); {
			j := i
			for j+1 < len(nums) && nums[j+1] <= nums[j]+1 {
				j++
			}
			part := fmt.Sprintf("%0*d", max(1, k.width), nums[i])
			if nums[j] > nums[i] {
				part += fmt.Sprintf("-%0*d", max(1, k.width), nums[j])
			}
			parts = append(parts, part)
			i = j + 1
		}
		if len(parts) == 1 && !strings.Contains(parts[0], "-") {
			out = append(out, k.head+parts[0])
		} else {
			out = append(out, k.head+"["+strings.Join(parts, ",")+"]")
		}
	}
	sort.Strings(out)
	return strings.Join(out, ",")
}
