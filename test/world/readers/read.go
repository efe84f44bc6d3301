// Prints each line of a response, as it comes, and "END" where it is whole. net/http asks for gzip by itself, and inflates it.
package main

import (
	"bufio"
	"fmt"
	"net/http"
	"os"
)

func main() {
	response, err := http.Get(os.Args[1])
	if err != nil || !response.Uncompressed {
		fmt.Println("ERROR", err)
		os.Exit(1)
	}
	lines := bufio.NewScanner(response.Body)
	for lines.Scan() {
		fmt.Println(lines.Text())
	}
	if err := lines.Err(); err != nil {
		fmt.Println("ERROR", err)
		os.Exit(1)
	}
	fmt.Println("END")
}
