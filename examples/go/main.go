// Labels of a photo by jpeg-web: go run main.go http://localhost:8080 photo.jpg
package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"time"
)

type failure struct {
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

type answer struct {
	Results []struct {
		Predictions []struct {
			Label string  `json:"label"`
			Score float64 `json:"score"`
			Index int     `json:"index"`
		} `json:"predictions"`
		Error *failure `json:"error"`
	} `json:"results"`
	// Of the request as a whole.
	Error *failure `json:"error"`
}

func classify(url, file string) (*answer, error) {
	image, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer image.Close()
	request, err := http.NewRequest("POST", url+"/classify?k=3", image)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "image/jpeg")
	if key := os.Getenv("JPEG_API_KEY"); key != "" {
		request.Header.Set("Authorization", "Bearer "+key)
	}
	client := http.Client{Timeout: 30 * time.Second}
	response, err := client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("%w: start the server, or correct the URL", err)
	}
	defer response.Body.Close()
	found := new(answer)
	if err := json.NewDecoder(response.Body).Decode(found); err != nil {
		return nil, fmt.Errorf("%s: %w", response.Status, err)
	}
	if found.Error != nil {
		return nil, fmt.Errorf("%s: %s [%s]", response.Status, found.Error.Message, found.Error.Reason)
	}
	return found, nil
}

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: main URL FILE")
		os.Exit(2)
	}
	found, err := classify(os.Args[1], os.Args[2])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	for _, result := range found.Results {
		if result.Error != nil {
			fmt.Fprintf(os.Stderr, "%s [%s]\n", result.Error.Message, result.Error.Reason)
			os.Exit(1)
		}
		if len(result.Predictions) == 0 {
			fmt.Println("no label")
		}
		for _, prediction := range result.Predictions {
			fmt.Printf("%s %.3f\n", prediction.Label, prediction.Score)
		}
	}
}
