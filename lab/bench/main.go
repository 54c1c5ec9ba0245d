// Command bench measures capture and deploy next to partclone on the same disk.
package main

import (
	"context"
	"fmt"
	"os"
	"time"
)

func main() {
	t0 := time.Now()
	err := makeDisk(context.Background(), os.Args[1], 16<<30, tree{used: 1 << 30, seed: 1})
	fmt.Println(err, time.Since(t0))
}
