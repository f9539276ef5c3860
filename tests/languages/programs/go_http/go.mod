module mayfly.example/go_http

go 1.22
