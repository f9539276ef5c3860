# WEBrick, which handles each request in a thread of its own.
require "json"
require "securerandom"
require "webrick"

calls = 0
server = WEBrick::HTTPServer.new(Port: Integer(ENV.fetch("PORT")))
server.mount_proc("/") do |request, response|
  calls += 1
  asked = JSON.parse(request.body)
  response.body = JSON.generate(
    text: asked["text"],
    count: calls,
    sum: (0..asked["number"]).sum { |n| n * n },
    random: SecureRandom.hex(16),
    version: RUBY_VERSION
  )
end
server.start
