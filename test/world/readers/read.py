# Prints each line of a response that it asks for as gzip, as it comes, and "END" where zlib says that it is whole.
import sys, urllib.request, zlib

response = urllib.request.urlopen(urllib.request.Request(sys.argv[1], headers={'accept-encoding': 'gzip'}))
assert response.headers['content-encoding'] == 'gzip'
inflate = zlib.decompressobj(31)
while chunk := response.read1():
    sys.stdout.buffer.write(inflate.decompress(chunk))
    sys.stdout.flush()
print('END' if inflate.eof else 'CUT')
