package providers_test

import (
	"context"
	"fmt"

	"fetchworker/internal/providers"
	"fetchworker/internal/providers/providertest"
)

func ExampleProvider_Do() {
	recorded, err := providertest.Exchanges("fred")
	if err != nil {
		fmt.Println(err)
		return
	}
	upstream := providertest.Pipe("fred.test", recorded...)
	defer upstream.Close()
	set, err := providers.Load(env(map[string]string{
		"FRED_API_KEY":  "secret-key",
		"FRED_BASE_URL": "http://fred.test/fred",
	}), providers.WithDial(upstream.DialContext))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer set.Close()

	fred, _ := set.Provider("fred")
	_, err = fred.Plan("series", []byte(`{"limit":0}`))
	fmt.Println(err)
	call, err := fred.Plan("series", []byte(`{"series_id":"UNRATE","limit":2}`))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(call.Target())

	r := fred.Do(context.Background(), call, providers.Options{})
	fmt.Println(r.Class, r.HTTPStatus, "next page:", string(r.Next))

	upstream.Script(upstream.Named("error_unknown_series"))
	r = fred.Do(context.Background(), call, providers.Options{})
	fmt.Println(r.Class, r.Code, r.Detail)
	// Output:
	// parameter "series_id": expected the id of a series, such as GDP or DGS10 (it is required)
	// /fred/series/observations?file_type=json&limit=2&series_id=UNRATE
	// ok 200 next page: {"limit":"2","offset":"2","series_id":"UNRATE"}
	// permanent not_found status 400: Bad Request. The series does not exist.
}
