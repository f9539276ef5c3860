# HTTP::Daemon.
use strict;
use warnings;
use HTTP::Daemon;
use HTTP::Response;
use JSON::PP;

my $calls  = 0;
my $daemon = HTTP::Daemon->new( LocalPort => $ENV{PORT}, ReuseAddr => 1 ) or die "cannot listen: $!";
while ( my $client = $daemon->accept ) {
    while ( my $request = $client->get_request ) {
        $calls++;
        my $asked = decode_json( $request->content );
        my $sum   = 0;
        $sum += $_ * $_ for 0 .. $asked->{number};
        open my $source, '<:raw', '/dev/urandom' or die "no randomness: $!";
        read $source, my $random, 16;
        close $source;
        my $answer = {
            text    => $asked->{text},
            count   => $calls,
            sum     => $sum,
            random  => unpack( 'H*', $random ),
            version => sprintf( '%vd', $^V ),
        };
        $client->send_response( HTTP::Response->new( 200, 'OK', [ 'Content-Type' => 'application/json' ], encode_json($answer) ) );
    }
    $client->close;
}
